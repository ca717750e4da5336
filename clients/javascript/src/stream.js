// One event stream of a session: resumes by itself, and is shared between the tabs of a browser.
//
// The tab that holds the lock keeps the connection and broadcasts; the others listen. When it closes, the next one gets
// the lock and goes on at its own cursor. Each tab drops what it has had, so nothing is missed or repeated.

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
    if (event.cursor && isSeen(event.cursor, at.cursor)) return false
    at.cursor = later(event.cursor, at.cursor) // first argument wins where topics were created again
    if (event.type !== 'position') emit(event)
    return true
  }
  if (!shared) {
    await connect({ http, path, signal, silenceMs, cursorOf: () => at.cursor, onState, deliver: take })
    return
  }

  const channel = new BroadcastChannel(name)
  let waiting = [] // what is broadcast while this tab still fetches what it has missed
  let leaderAt = null
  const said = new Set()
  channel.onmessage = ({ data: message }) => {
    if (message.kind === 'event') {
      if (waiting) waiting.push(message.event)
      else take(message.event)
    } else if (message.kind === 'state' && !leading) {
      onState({ connected: message.connected, leader: false })
    } else if (message.kind === 'where' && leading) {
      channel.postMessage({ kind: 'here', cursor: at.cursor, connected })
    } else if (message.kind === 'here') {
      leaderAt = message.cursor
      if (!leading) onState({ connected: message.connected, leader: false })
      said.forEach((resolve) => resolve())
    }
  }
  let leading = false
  let connected = false

  const lead = async () => {
    leading = true
    waiting?.forEach(take)
    waiting = null
    await connect({
      http,
      path,
      signal,
      silenceMs,
      cursorOf: () => at.cursor,
      onState: (state) => {
        connected = state.connected
        onState({ ...state, leader: true })
        channel.postMessage({ kind: 'state', connected })
      },
      deliver: (event) => {
        if (take(event)) channel.postMessage({ kind: 'event', event })
      },
    })
  }

  // The lock is asked for at once; until it is granted, another tab has it.
  const elected = navigator.locks.request(name, { signal }, lead).catch((error) => {
    if (!signal.aborted) throw error
  })
  try {
    const other = await Promise.race([
      elected.then(() => 'over'),
      (async () => {
        await new Promise((resolve) => setTimeout(resolve, 0))
        for (let tries = 0; tries < 20 && !leading && leaderAt === null; tries++) {
          const answered = new Promise((resolve) => said.add(resolve))
          channel.postMessage({ kind: 'where' })
          await Promise.race([answered, sleep(100, signal).catch(() => {})])
        }
        return 'asked'
      })(),
    ])
    if (other === 'asked' && !leading && waiting) {
      // What this tab has missed before it came, by a connection of its own, up to where the others are.
      if (at.cursor && leaderAt && !isSeen(leaderAt, at.cursor)) {
        const own = new AbortController()
        const stop = () => own.abort()
        signal.addEventListener('abort', stop, { once: true })
        const goal = leaderAt
        await connect({
          http,
          path,
          signal: own.signal,
          silenceMs,
          cursorOf: () => at.cursor,
          onState: () => {},
          deliver: (event) => {
            take(event)
            if (isSeen(goal, at.cursor) || leading) own.abort()
          },
        }).catch((error) => {
          if (!own.signal.aborted) throw error
        })
        signal.removeEventListener('abort', stop)
      } else {
        at.cursor = later(leaderAt, at.cursor)
      }
      waiting?.forEach(take)
      waiting = null
    }
    await elected
  } finally {
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
