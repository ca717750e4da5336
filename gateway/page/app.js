import { Tidegate } from './client/index.js'
import { dayRevision, fold, HOURS, revision } from './world.js'
import { taskRow, when } from './tasks.js'

const $ = (id) => document.getElementById(id)
const element = (tag, className, text) => {
  const made = document.createElement(tag)
  if (className) made.className = className
  if (text !== undefined) made.textContent = text
  return made
}

// Which session: the same for every tab of this browser, a new one after "Start afresh".
const sessionId = decodeURIComponent(location.hash.slice(1)) || localStorage.getItem('session') || `demo/${crypto.randomUUID().slice(0, 8)}`
localStorage.setItem('session', sessionId)
history.replaceState(null, '', `#${encodeURIComponent(sessionId)}`)
const client = sessionStorage.getItem('client') || `tab-${crypto.randomUUID().slice(0, 4)}`
sessionStorage.setItem('client', client)

const session = new Tidegate({ url: location.origin }).session(sessionId, { client })
const prefix = `tidegate ${sessionId} `

// The log, one key for each entry, so that tabs never overwrite each other's. All tabs write the tasks, so each is merged:
// a tab that is behind must not take back what another one knows. `reached` tells how far the stream was.
const entries = new Map()
const tasks = new Map()
const reachedAt = (cursor) => cursor.split('-').slice(3).reduce((sum, position) => sum + Number(position), 0)

function merged(one, other) {
  if (!one || !other) return one || other
  return (one.reached || 0) > (other.reached || 0) ? { ...other, ...one } : { ...one, ...other }
}

function load(key, text) {
  if (!key.startsWith(prefix) || !text) return
  const name = key.slice(prefix.length)
  if (name.startsWith('entry ')) entries.set(name.slice(6), JSON.parse(text))
  if (name.startsWith('task ')) tasks.set(name.slice(5), merged(tasks.get(name.slice(5)), JSON.parse(text)))
}

function record(id, entry) {
  if (entries.has(id)) return false
  const made = { at: Date.now(), ...entry }
  entries.set(id, made)
  localStorage.setItem(`${prefix}entry ${id}`, JSON.stringify(made))
  draw()
  return true
}

/** `cursor`: of the event that tells it; none if it is this page's own. */
function note(id, changes, cursor) {
  const key = `${prefix}task ${id}`
  const known = merged(tasks.get(id), JSON.parse(localStorage.getItem(key))) || { id, began: Date.now() }
  if (known.outcome && !changes.outcome && !changes.receipt && changes.stage !== 'cancelled') delete changes.stage
  const reached = cursor ? reachedAt(cursor) : known.reached
  const task = merged(known, { ...changes, reached })
  tasks.set(id, task)
  localStorage.setItem(key, JSON.stringify(task))
  draw()
}

const log = () => [...entries.values()].sort((one, other) => one.at - other.at)
const did = (move, fields) => record(crypto.randomUUID(), { kind: 'user', move, ...fields })

// The user's moves: written to the log, and told to the gate.

let view = sessionStorage.getItem('view') || 'flights'
const world = (gated = true) => fold(log(), gated)
const failed = (error) => console.error(error)

function tellCalendar() {
  session.set({ 'calendar/tuesday': dayRevision(world()) }).catch(failed)
}

function tellParagraph(index) {
  session.set({ [`doc/trip/${index}`]: revision(world().paragraphs[index].text) }).catch(failed)
}

function openConversation(id, title) {
  did('conversation', { id, title })
  session.set({ conversation: id }).catch(failed)
}

function goTo(next) {
  view = next
  sessionStorage.setItem('view', view)
  session.navigated(view).catch(failed)
  draw()
}

async function dispatch(title, task) {
  const key = crypto.randomUUID()
  try {
    const { id } = await session.dispatch({ plan: ['read', 'search', 'compare', 'write'], ...task }, { key })
    note(id, { title, type: task.task_type, ...(tasks.has(id) ? {} : { stage: 'running' }) })
  } catch (error) {
    failed(error)
  }
}

function askLunch() {
  const { meetings } = world()
  const busy = meetings.filter((each) => !each.wrong).map(({ start, end }) => [start, end])
  dispatch('Lunch with Ana', {
    task_type: 'book',
    snapshot: { 'calendar/tuesday': dayRevision(world()) },
    metadata: { title: 'Lunch with Ana', busy },
  })
}

function askRewrite(index) {
  const { text } = world().paragraphs[index]
  dispatch(`Improve paragraph ${index + 1}`, {
    task_type: 'rewrite',
    snapshot: { [`doc/trip/${index}`]: revision(text) },
    metadata: { index, text },
  })
}

function askQuestion(text) {
  const { conversation } = world()
  const request = crypto.randomUUID().slice(0, 8)
  did('ask', { conversation, request, text })
  session.set({ [`request/${request}`]: 'open', conversation }).catch(failed)
  dispatch(text.length > 22 ? `${text.slice(0, 21)}…` : text, {
    task_type: 'reply',
    snapshot: { conversation },
    request_id: request,
    when_absent: 'hold',
    metadata: { question: text, conversation },
  })
}

function askSearch() {
  dispatch(`Search ${view}`, {
    task_type: 'explore',
    snapshot: { [`view/${client}`]: view },
    on_stale: 'hold',
    slot: `found/${client}`,
    metadata: { view },
  })
}

function archive(request) {
  did('archive', { request })
  session.set({ [`request/${request}`]: 'archived' }).catch(failed)
}

// What comes back.

const decided = (data) => {
  const { metadata, task_id } = data
  const parts = data.parts.map((part) => ({
    part_id: part.part_id,
    payload: part.payload,
    decision: part.verdict?.decision || 'held',
    reason: part.verdict?.reason,
    annotated: part.verdict?.annotated,
    differences: part.verdict?.differences,
  }))
  return { task_id, metadata, parts, seen_view: view }
}

async function take({ type, data, cursor, released }) {
  if (type === 'delivered' || type === 'withheld') {
    // The last check: what this page has written since the verdict.
    const against = type === 'delivered' ? session.contradictions(data) : []
    const outdated = data.parts.some((part) => part.verdict?.annotated)
    const entry = { kind: 'result', ...decided(data), refused: against.length > 0 && !outdated }
    const isNew = record(`${data.event_id}`, entry)
    const stage = entry.refused ? 'refused' : type
    const known = tasks.get(data.task_id) || {}
    // Parts of one result come from two topics, in either order: with one part delivered, the task was delivered.
    const other = new Set([known.outcome, stage])
    const mixed = known.mixed || (other.has('delivered') && other.has('withheld'))
    note(data.task_id, {
      stage: mixed ? 'delivered' : stage,
      outcome: mixed ? 'delivered' : stage,
      mixed,
      reason: data.verdict.reason,
      released: released || known.released,
      differences: data.parts.flatMap((part) => part.verdict?.differences || []).slice(0, 3),
      against,
      outdated: outdated || known.outdated,
    }, cursor)
    if (isNew && type === 'delivered') {
      const applied = data.parts.some((part) => part.kind === 'apply') ? 'applied' : 'shown'
      session.acknowledge(data, entry.refused ? 'refused' : applied).catch(failed)
      if (!entry.refused && data.task_type === 'book') tellCalendar()
      if (!entry.refused && data.task_type === 'rewrite') tellParagraph(data.metadata.index)
    }
  } else if (type === 'outdated') {
    note(data.task_id, { since: data.differences }, cursor)
  } else if (type === 'reset') {
    for (const status of await (await session.tasks()).tasks) await takeStatus(status)
  } else if (data?.type === 'task.status') {
    await takeStatus(data, type, cursor)
  }
}

async function takeStatus(status, type = status.status, cursor) {
  const stage = type === 'ended' ? undefined : type === 'waiting' ? 'held' : type
  note(status.task_id, {
    ...(stage ? { stage } : {}),
    type: status.task_type,
    progress: status.progress ?? undefined,
    message: status.message ?? undefined,
    waiting_for: status.waiting_for ?? undefined,
    stale_facets: status.stale_facets || [],
    receipt: status.receipt ?? undefined,
    ...(status.disposition ? { disposition: status.disposition, endReason: status.reason } : {}),
  }, cursor)
  if (stage === 'held') {
    // Without a gate it would be there already: the inbox has what waits.
    const { held } = await session.inbox().catch(() => ({ held: [] }))
    for (const each of held) {
      record(`held ${each.task_id}`, { kind: 'result', ...decided({ ...each, metadata: {} }) })
    }
  }
}

// Drawing.

// Only what has changed is drawn again: a button that is replaced between press and release loses the click.
const drawn = new Map()
function isDrawn(name, ...content) {
  const text = JSON.stringify(content)
  if (drawn.get(name) === text) return true
  drawn.set(name, text)
  return false
}

let drawing = false
function draw() {
  if (drawing) return
  drawing = true
  requestAnimationFrame(() => {
    drawing = false
    const gated = $('gate').checked
    document.body.classList.toggle('off', !gated)
    $('gate-word').textContent = gated ? 'on' : 'off'
    $('banner').hidden = gated
    const now = world(gated)
    drawDay(now)
    drawParagraphs(now)
    drawChat(now)
    drawFound(now)
    drawTasks()
  })
}

let dragged = null
function drawDay({ meetings }) {
  if (dragged || isDrawn('day', meetings)) return
  const day = $('day')
  day.replaceChildren()
  const at = (hour) => `${((hour - HOURS[0]) / (HOURS[1] - HOURS[0])) * 100}%`
  for (let hour = HOURS[0]; hour < HOURS[1]; hour++) {
    const line = element('div', 'hour')
    line.style.top = at(hour)
    line.append(element('span', '', `${hour}:00`))
    day.append(line)
  }
  for (const meeting of [...meetings].sort((one, other) => one.start - other.start)) {
    const box = element('div', `meeting${meeting.byAgent ? ' by-agent' : ''}${meeting.wrong ? ' wrong' : ''}`)
    box.dataset.id = meeting.id
    box.style.top = at(meeting.start)
    box.style.height = `calc(${((meeting.end - meeting.start) / (HOURS[1] - HOURS[0])) * 100}% - 2px)`
    const overlaps = meeting.wrong && meetings.some((other) => other !== meeting && other.start < meeting.end && meeting.start < other.end)
    if (overlaps) box.style.left = '46%'
    box.append(element('span', '', meeting.title), ' ', element('small', '', when(meeting.start)))
    const remove = element('button', '', '✕')
    remove.title = `Delete ${meeting.title}`
    remove.addEventListener('pointerdown', (event) => event.stopPropagation())
    remove.addEventListener('click', () => {
      did('unmeet', { id: meeting.id })
      tellCalendar()
    })
    box.append(remove)
    box.addEventListener('pointerdown', (event) => startDrag(event, box, meeting))
    day.append(box)
  }
}

function startDrag(event, box, meeting) {
  const day = $('day').getBoundingClientRect()
  const perHour = day.height / (HOURS[1] - HOURS[0])
  const length = meeting.end - meeting.start
  let start = meeting.start
  dragged = box
  box.setPointerCapture(event.pointerId)
  const move = (moved) => {
    const wanted = meeting.start + (moved.clientY - event.clientY) / perHour
    start = Math.min(HOURS[1] - length, Math.max(HOURS[0], Math.round(wanted * 2) / 2))
    box.style.top = `${((start - HOURS[0]) / (HOURS[1] - HOURS[0])) * 100}%`
  }
  const drop = () => {
    box.removeEventListener('pointermove', move)
    dragged = null
    drawn.delete('day')
    if (start !== meeting.start) {
      did('meeting', { id: meeting.id, title: meeting.title, start, end: start + length })
      tellCalendar()
    }
    draw()
  }
  box.addEventListener('pointermove', move)
  box.addEventListener('pointerup', drop, { once: true })
  box.addEventListener('pointercancel', drop, { once: true })
}

function drawParagraphs({ paragraphs }) {
  const list = $('paragraphs')
  paragraphs.forEach((paragraph, index) => {
    let box = list.children[index]
    if (!box) {
      box = element('div', 'paragraph')
      const text = element('div', 'text')
      text.contentEditable = 'plaintext-only'
      text.setAttribute('role', 'textbox')
      text.setAttribute('aria-label', `Paragraph ${index + 1}`)
      let timer
      const save = () => {
        clearTimeout(timer)
        if (!box.dataset.typing) return
        delete box.dataset.typing
        did('edit', { index, text: text.textContent })
        tellParagraph(index)
      }
      text.addEventListener('input', () => {
        box.dataset.typing = 'true'
        clearTimeout(timer)
        timer = setTimeout(save, 250)
      })
      text.addEventListener('blur', save)
      const foot = element('div', 'foot')
      const improve = element('button', 'agent', 'Improve')
      improve.addEventListener('click', () => askRewrite(index))
      foot.append(improve, element('span', 'mark'))
      box.append(text, foot)
      list.append(box)
    }
    const [text, foot] = box.children
    if (!box.dataset.typing && text.textContent !== paragraph.text) text.textContent = paragraph.text
    const mark = foot.lastChild
    mark.hidden = !paragraph.mark
    mark.className = `mark ${paragraph.mark || ''}`
    mark.textContent = paragraph.mark === 'wrong' ? 'your words were overwritten' : 'improved by the agent'
    box.classList.toggle('wrong', paragraph.mark === 'wrong')
  })
}

function drawChat(now) {
  if (isDrawn('chat', now.conversations, now.conversation, now.messages, [...now.archived])) return
  const tabs = $('conversations')
  tabs.replaceChildren()
  for (const { id, title } of now.conversations.slice(-4)) {
    const tab = element('button', id === now.conversation ? 'on' : '', title)
    tab.addEventListener('click', () => openConversation(id, title))
    tabs.append(tab)
  }
  const list = $('messages')
  const shown = now.messages.filter((each) => each.conversation === now.conversation)
  list.replaceChildren()
  for (const message of shown) {
    const isArchived = now.archived.has(message.request)
    const kinds = ['message', message.mine && 'mine', isArchived && 'archived', message.wrong && 'wrong', message.outdated && 'outdated']
    const box = element('div', kinds.filter(Boolean).join(' '), message.text)
    if (message.mine && !isArchived) {
      const button = element('button', '', 'archive')
      button.addEventListener('click', () => archive(message.request))
      box.append(button)
    }
    if (message.outdated) box.append(element('span', 'note', 'outdated: something it depends on has changed'))
    if (message.wrong) box.append(element('span', 'note', message.stale ? 'it is outdated, and nothing says so' : 'nobody is waiting for this here any more'))
    list.append(box)
  }
  if (!shown.length) list.append(element('div', 'empty', 'Nothing here yet.'))
  list.scrollTop = list.scrollHeight
}

function drawFound({ found }) {
  if (isDrawn('found', view, found[view])) return
  for (const button of $('views').children) button.classList.toggle('on', button.dataset.view === view)
  $('ask-search').title = `Search ${view}`
  const list = $('found')
  list.replaceChildren()
  const here = found[view]
  if (!here) list.append(element('div', 'empty', `No ${view} yet.`))
  for (const [name, price] of here?.offers || []) {
    const offer = element('div', `offer${here.wrong ? ' wrong' : ''}`)
    offer.append(element('span', '', name), element('b', '', price))
    list.append(offer)
  }
}

const taskRows = new Map()
function drawTasks() {
  const list = $('tasks')
  const sorted = [...tasks.values()].filter((each) => each.title || each.type).sort((one, other) => other.began - one.began)
  const rows = sorted.slice(0, 30).map((task) => {
    if (!isDrawn(`task ${task.id}`, task)) taskRows.set(task.id, taskRow(task, element, cancel))
    return taskRows.get(task.id)
  })
  if (rows.length !== list.children.length || rows.some((row, index) => list.children[index] !== row)) list.replaceChildren(...rows)
  if (!sorted.length) list.append(element('div', 'empty', 'Nothing yet. Buttons with ✦ give an agent something to do.'))
}

async function cancel(task) {
  note(task.id, { cancelling: true })
  try {
    await session.task(task.id).cancel({ reason: 'the user wants it no more' })
  } catch (error) {
    failed(error)
  }
}

// Wiring.

$('gate').addEventListener('change', draw)
$('ask-lunch').addEventListener('click', askLunch)
$('ask-search').addEventListener('click', askSearch)
$('new-conversation').addEventListener('click', () => {
  const number = world().conversations.length + 1
  openConversation(`c${number}`, ['', '', 'Taxes', 'Garden', 'Dinner'][number] || `Talk ${number}`)
})
$('composer').addEventListener('submit', (event) => {
  event.preventDefault()
  const text = $('question').value.trim()
  if (text) askQuestion(text)
  $('question').value = ''
})
for (const button of $('views').children) button.addEventListener('click', () => goTo(button.dataset.view))
$('second').href = `${location.pathname}#${encodeURIComponent(sessionId)}`
$('leave').addEventListener('click', () => {
  $('away').hidden = false
  following.abort() // as the browser does when the tab closes; an open stream would renew the presence
  showState({ connected: false })
  session.absent().catch(failed)
})
$('back').addEventListener('click', () => {
  $('away').hidden = true
  session.present().catch(failed)
  follow().catch(failed)
})
$('afresh').addEventListener('click', () => {
  for (const key of Object.keys(localStorage)) if (key.startsWith('tidegate ')) localStorage.removeItem(key)
  localStorage.removeItem('session')
  location.hash = ''
  location.reload()
})
window.addEventListener('pagehide', () => session.absent({ leaving: true }))
window.addEventListener('pageshow', (event) => event.persisted && session.present().catch(failed))
window.addEventListener('storage', ({ key, newValue }) => {
  if (key) load(key, newValue)
  draw()
})
window.addEventListener('hashchange', () => location.reload())

function showState({ connected, leader }) {
  $('connection').classList.toggle('on', connected)
  $('connection').querySelector('b').textContent = connected ? (leader ? 'connected' : 'connected by another tab') : 'reconnecting…'
}

async function main() {
  for (const [key, text] of Object.entries(localStorage)) load(key, text)
  showState({ connected: false })
  draw()
  // What the answers depend on, as this page has it.
  const now = world()
  session
    .set({
      [`presence/${client}`]: 'present',
      [`view/${client}`]: view,
      conversation: now.conversation,
      'calendar/tuesday': dayRevision(now),
      ...Object.fromEntries(now.paragraphs.map(({ text }, index) => [`doc/trip/${index}`, revision(text)])),
    })
    .catch(failed)
  await follow()
}

let following
async function follow() {
  following = new AbortController()
  const { signal } = following
  const at = `${prefix}cursor`
  const onState = (state) => signal.aborted || showState(state)
  for await (const event of session.events({ cursor: localStorage.getItem(at), signal, onState })) {
    await take(event).catch(failed)
    if (event.cursor) localStorage.setItem(at, event.cursor)
  }
}

window.demo = { session, tasks, entries, world, client } // for tests, and for looking around
main().catch(failed)
