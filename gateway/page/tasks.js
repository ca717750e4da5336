// A line for each task: how far it is, how it ended, and why, in words.

export const when = (hour) => `${Math.floor(hour)}:${hour % 1 ? '30' : '00'}`

const FACETS = [
  [/^calendar\//, 'the calendar has changed'],
  [/^doc\//, 'the paragraph was edited'],
  [/^conversation$/, 'you are in another conversation'],
  [/^view\//, 'you went to another view'],
]

const inWords = (facet) => (FACETS.find(([pattern]) => pattern.test(facet)) || [null, `${facet} has changed`])[1]

const REASONS = {
  request_archived: 'the question is archived',
  user_absent: 'nobody is there',
  late: 'it came after the task had been cancelled',
  superseded: 'a newer answer is there',
  hold_expired: 'it waited too long',
  session_closed: 'the session is closed',
}

const WAITING = { context: 'waits until you are back at that view', user: 'waits until you are here', slot: 'waits its turn' }

function why(task) {
  const differing = [...new Set((task.differences || []).map((each) => inWords(each.facet)))].join(', ')
  if (task.stage === 'refused') return `the last check on this page: ${[...new Set(task.against.map((each) => inWords(each.facet)))].join(', ')}`
  if (task.disposition === 'cancelled') {
    const late = task.outcome === 'withheld' ? '. Its result came all the same, and was withheld.' : ''
    return receiptInWords(task.receipt) + late
  }
  if (task.stage === 'withheld') return REASONS[task.reason] || differing || task.reason
  if (task.stage === 'delivered') {
    if (task.mixed) return `the message, marked as outdated; the change was withheld: ${differing}`
    if (task.since) return `delivered, and outdated since: ${[...new Set(task.since.map((each) => inWords(each.facet)))].join(', ')}`
    if (task.outdated) return `marked as outdated: ${differing}`
    return task.released ? 'it waited, and was released' : 'everything it depends on is as it was'
  }
  if (task.stage === 'held') return WAITING[task.waiting_for] || 'waits'
  if (task.stage === 'stale') return `${(task.stale_facets || []).map(inWords).join(', ')}; it works on all the same`
  return task.message || 'at work'
}

function receiptInWords(receipt) {
  if (!receipt) return 'the agent was told to stop'
  const names = (label, list) => (list?.length ? `${label}: ${list.join(', ')}` : '')
  const parts = [names('done', receipt.done), names('in flight', receipt.in_flight), names('never begun', receipt.not_attempted)]
  return `receipt: ${parts.filter(Boolean).join(' · ')}`
}

export function taskRow(task, element, cancel) {
  const stage = task.disposition === 'cancelled' ? 'cancelled' : task.stage || 'running'
  const row = element('div', 'task')
  row.dataset.task = task.id
  row.dataset.stage = stage
  const title = element('div', 'title', task.title || task.type)
  const chip = element('div', `chip ${stage}`, { running: 'working', stale: 'outdated' }[stage] || stage)
  const words = element('div', 'why', why(task))
  if (stage === 'running' || stage === 'stale') {
    const bar = element('div', 'bar')
    const done = element('i')
    done.style.width = `${Math.round((task.progress || 0.03) * 100)}%`
    bar.append(done)
    words.append(bar)
  }
  row.append(title, chip, words)
  if (['running', 'stale', 'held'].includes(stage)) {
    const button = element('button', 'quiet', task.cancelling ? 'cancelling…' : 'Cancel')
    button.disabled = !!task.cancelling
    button.addEventListener('click', () => cancel(task))
    row.append(button)
  }
  return row
}
