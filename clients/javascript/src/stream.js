// One event stream of a session: resumes by itself, and is shared between the tabs of a browser.
//
// The tab that holds the lock keeps the connection and broadcasts; the others listen. When it closes, the next one gets
// the lock and goes on at its own cursor. Each tab drops what it has had, and reads for itself what it has missed.

import { isSeen, later } from './cursor.js'
import { backoff, sleep, TidegateError } from './http.js'
import { blocks } from './sse.js'

const SILENCE_MS = 45_000 // three heartbeats: the connection is dead, whatever TCP says

/**
 * @param {object} options
 * @param {import('./http.js').Http} options.http
 * @param {string} options.path
 * @param {string} options.name of the lock and the channel
 * @param {string | null} options.cursor
 * @param {boolean} options.shared
 * @param {AbortSignal} options.signal
 * @param {(event: { type: string, data: any, cursor: string }) => void} options.emit
 * @param {(state: { connected: boolean, leader: boolean }) => void} options.onState
 */
export async function follow({ signal, cursor, ...options }) {
  const at = { cursor }
  while (!signal.aborted) {
    // A page that the browser keeps for "back" would keep its connection, too, and a browser has six for each host.
    const shown = new AbortController()
    const hide = () => shown.abort(signal.reason)
    signal.addEventListener('abort', hide, { once: true })
    globalThis.addEventListener?.('pagehide', hide, { once: true })
    try {
      await followWhileShown({ ...options, at, signal: shown.signal })
    } finally {
      signal.removeEventListener('abort', hide)
      globalThis.removeEventListener?.('pagehide', hide)
    }
    if (!signal.aborted) await shownAgain(signal)
  }
}

function shownAgain(signal) {
  return new Promise((resolve) => {
    const done = () => {
      signal.removeEventListener('abort', done)
      globalThis.removeEventListener('pageshow', done)
      resolve()
    }
    signal.addEventListener('abort', done, { once: true })
    globalThis.addEventListener('pageshow', done, { once: true })
  })
}

async function followWhileShown({ http, path, name, at, shared, signal, emit, onState, silenceMs = SILENCE_MS }) {
  const take = (event) => {
    if (!at.isReset && isSeen(event.cursor, at.cursor)) return false
    // After a reset the old cursor means nothing any more, even if it is further on.
    at.cursor = at.isReset && event.cursor ? event.cursor : later(event.cursor, at.cursor)
    at.isReset = event.type === 'reset' || (at.isReset && !event.cursor)
    if (event.type !== 'position') emit(event)
    return true
  }
  const connection = { http, path, silenceMs, cursorOf: () => at.cursor }
  if (shared) await followTogether({ connection, name, at, signal, take, onState })
  else await connect({ ...connection, signal, onState, deliver: take })
}

/**
 * Follow with the other tabs. A tab begins as `joining`: it keeps what is broadcast, until it knows where the leading tab
 * stands and has read for itself what it has missed up to there. Then it is `following`, until it is `leading`.
 */
async function followTogether({ connection, name, at, signal, take, onState }) {
  const channel = new BroadcastChannel(name)
  let role = 'joining'
  let kept = []
  let leader = { cursor: null, connected: false }
  let heard = () => {}
  let stopCatchingUp = () => {}
  const tell = (kind, fields) => channel.postMessage({ kind, ...fields })

  channel.onmessage = ({ data: message }) => {
    if (message.kind === 'where' && role === 'leading') {
      tell('here', { ...leader, cursor: at.cursor })
    } else if (message.kind === 'event' && role === 'joining') {
      kept.push(message.event)
    } else if (message.kind === 'event' && role === 'following') {
      take(message.event)
    } else if (message.kind === 'here' && role !== 'leading') {
      leader = { cursor: message.cursor, connected: message.connected }
      // The channel keeps the order, so only a message that was lost with a closing tab can be missing here.
      if (role === 'following' && message.cursor && !isSeen(message.cursor, at.cursor)) role = 'joining'
      if (role === 'following') onState({ connected: leader.connected, leader: false })
      heard()
    }
  }

  const lead = async () => {
    // What was kept is not taken: it may lie beyond a gap, and the connection brings it again.
    if (!at.cursor && !leader.cursor) kept.forEach(take)
    at.cursor ||= leader.cursor
    role = 'leading'
    kept = []
    stopCatchingUp()
    heard()
    leader = { cursor: null, connected: false }
    tell('here', { ...leader, cursor: at.cursor })
    await connect({
      ...connection,
      signal,
      onState: ({ connected }) => {
        leader.connected = connected
        onState({ connected, leader: true })
        tell('here', { ...leader, cursor: at.cursor })
      },
      deliver: (event) => {
        if (take(event)) tell('event', { event })
      },
    })
  }

  const answer = (milliseconds) => {
    const answered = new Promise((resolve) => (heard = resolve))
    return milliseconds ? Promise.race([answered, sleep(milliseconds, signal).catch(() => {})]) : answered
  }
  const wake = () => heard()
  signal.addEventListener('abort', wake, { once: true })

  const join = async () => {
    // Without the leading tab's position nothing can be taken: it is not known what lies before what is broadcast.
    leader.cursor = null
    for (let tries = 0; role === 'joining' && !leader.cursor && !signal.aborted; tries++) {
      const answered = answer(tries < 20 ? 100 : 1000)
      tell('where')
      await answered
      // a tab that is about to connect has no position yet, and answers at once
      if (role === 'joining' && !leader.cursor) await sleep(20, signal).catch(() => {})
    }
    const goal = leader.cursor
    if (role === 'joining' && at.cursor && !isSeen(goal, at.cursor)) await catchUp(goal)
    if (role !== 'joining' || signal.aborted) return
    at.cursor = later(goal, at.cursor)
    kept.forEach(take)
    kept = []
    role = 'following'
    onState({ connected: leader.connected, leader: false })
  }

  const catchUp = async (goal) => {
    const reached = new AbortController()
    stopCatchingUp = () => reached.abort()
    signal.addEventListener('abort', stopCatchingUp, { once: true })
    const deliver = (event) => {
      take(event)
      if (isSeen(goal, at.cursor)) reached.abort()
    }
    try {
      await connect({ ...connection, signal: reached.signal, onState: () => {}, deliver })
    } catch (error) {
      if (!reached.signal.aborted) throw error
    } finally {
      signal.removeEventListener('abort', stopCatchingUp)
    }
  }

  const listen = async () => {
    await new Promise((resolve) => setTimeout(resolve, 0)) // a lock that nobody has is granted first
    while (role !== 'leading' && !signal.aborted) {
      if (role === 'joining') await join()
      else await answer()
    }
  }

  // The lock is asked for at once; until it is granted, another tab has it.
  const elected = navigator.locks.request(name, { signal }, lead).catch((error) => {
    if (!signal.aborted) throw error
  })
  try {
    await Promise.all([elected, listen()])
  } finally {
    signal.removeEventListener('abort', wake)
    channel.close()
  }
}

/** Keep a connection until the signal aborts; each new one goes on at the cursor. */
async function connect({ http, path, signal, silenceMs, cursorOf, onState, deliver }) {
  for (let failures = 0; !signal.aborted; ) {
    let wait = backoff(failures)
    const attempt = new AbortController()
    const stop = () => attempt.abort(signal.reason)
    signal.addEventListener('abort', stop, { once: true })
    let timer
    const alive = () => {
      clearTimeout(timer)
      timer = setTimeout(() => attempt.abort(new Error('nothing was heard')), silenceMs)
    }
    try {
      alive()
      const headers = { Accept: 'text/event-stream', ...(cursorOf() ? { 'Last-Event-ID': cursorOf() } : {}) }
      const response = await http.send('GET', path, { headers, signal: attempt.signal })
      if (!response.ok) {
        const problem = await response.json().catch(() => ({}))
        const error = new TidegateError(response.status, problem)
        if ([400, 401, 403, 404].includes(response.status)) throw error
        wait = Math.max(wait, 1000 * Number(response.headers.get('retry-after') || 0))
        throw new Error(error.message)
      }
      for await (const { id, event, data } of blocks(response.body)) {
        alive()
        if (event === 'reconnect' || event === 'unauthorized') {
          wait = 100 * Math.random()
          break
        }
        if (id !== undefined || event !== undefined) {
          if (failures >= 0) onState({ connected: true, leader: true })
          failures = -1
          deliver({ type: event || 'position', data: data ? JSON.parse(data) : null, cursor: id })
        }
      }
    } catch (error) {
      if (error instanceof TidegateError) throw error
    } finally {
      clearTimeout(timer)
      signal.removeEventListener('abort', stop)
      attempt.abort()
    }
    if (signal.aborted) return
    failures += 1
    onState({ connected: false, leader: true })
    await sleep(wait, signal).catch(() => {})
  }
}
