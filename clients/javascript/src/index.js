// Client of the Tidegate gateway. No dependencies; browsers and Node 20 or later.

import { Written } from './check.js'
import { Http, segment, TidegateError } from './http.js'
import { follow } from './stream.js'

export { TidegateError }

/** A gateway and a token for it. */
export class Tidegate {
  /**
   * @param {object} options
   * @param {string} options.url of the gateway, such as `https://gate.example.com`
   * @param {string | ((refused: boolean) => string | Promise<string>)} [options.token] or what gives one; it is called
   *   with `true` after a token was refused
   * @param {typeof fetch} [options.fetch]
   */
  constructor({ url, token, fetch }) {
    this._http = new Http({ url, token, fetch })
  }

  /** One session. `client` names this page in `view/<client>` and `presence/<client>`. */
  session(id, { client = 'web' } = {}) {
    return new Session(this._http, id, client)
  }
}

/** One session: what the user does goes in, what agents achieve comes out. */
export class Session {
  constructor(http, id, client) {
    this.id = id
    this.client = client
    this._http = http
    this._path = `/v1/sessions/${segment(id)}`
    this._written = new Written()
    this._last = Promise.resolve()
  }

  /**
   * Set and unset facets. Writes leave one at a time, in the order of the calls; each is repeated until Kafka has it.
   * Resolves with the position, after which `context({ atLeast })` knows them. By facet, `versions`: only a newer one
   * counts; `expiresInSeconds`: a lease, after which the facet is unset and presence becomes `absent`.
   */
  set(facets, { unset = [], versions, expiresInSeconds, signal } = {}) {
    const acknowledged = this._written.begin(facets, unset)
    const write = this._last.then(async () => {
      const body = { set: facets, ...(unset.length ? { unset } : {}) }
      if (versions) body.versions = versions
      if (expiresInSeconds) body.expires_in_seconds = expiresInSeconds
      const { answer } = await this._http.json('POST', `${this._path}/context`, { body, signal })
      acknowledged(Number(answer.position.split(':')[2]))
      return answer.position
    })
    this._last = write.catch(() => {}) // one that failed for good does not stop the others
    return write
  }

  /** The user went to another view. */
  navigated(view) {
    return this.set({ [`view/${this.client}`]: view })
  }

  /** The user is at this page. */
  present() {
    return this.set({ [`presence/${this.client}`]: 'present' })
  }

  /** The user has left this page. `leaving`: the page is being closed, so nothing is waited for. */
  absent({ leaving = false } = {}) {
    if (!leaving) return this.set({ [`presence/${this.client}`]: 'absent' })
    const body = { set: { [`presence/${this.client}`]: 'absent' } }
    return this._http.send('POST', `${this._path}/context`, { body, keepalive: true }).catch(() => {})
  }

  /**
   * Hand a task to an agent, after every write so far. `key` makes a repeated call the same task.
   * @returns {Promise<Task>}
   */
  async dispatch(task, { key = crypto.randomUUID(), signal } = {}) {
    await this._last
    const { answer } = await this._http.json('POST', `${this._path}/tasks`, {
      body: task,
      headers: { 'Idempotency-Key': key },
      signal,
    })
    return new Task(this, answer.task_id, answer.position)
  }

  /** A task by its id. */
  task(id) {
    return new Task(this, id, null)
  }

  /** Cancel every task of a request or a slot, or all of the session's: `{ request }`, `{ slot }` or `{ all: true }`. */
  async cancel({ request, slot, all, reason, signal } = {}) {
    const body = request !== undefined ? { request_id: request } : slot !== undefined ? { slot } : { all }
    const { answer } = await this._http.json('POST', `${this._path}/cancel`, { body: reason ? { ...body, reason } : body, signal })
    return answer.position
  }

  /** Say what became of a delivery, or of some of its parts: `shown`, `applied` or `refused`. */
  async acknowledge(delivery, outcome, { parts, reason, signal } = {}) {
    const path = `${this._path}/results/${segment(delivery.event_id)}/acknowledgement`
    const body = { task_id: delivery.task_id, outcome }
    if (parts) body.part_ids = parts
    if (reason) body.reason = reason
    const { answer } = await this._http.json('POST', path, { body, signal })
    return answer.position
  }

  /**
   * The last check before something is shown or applied: what this page has written since the verdict, against what the
   * delivery (or one part of it) depends on. Empty if nothing contradicts it. It also looks at `valid_until`.
   */
  contradictions(delivery, part) {
    const found = this._written.contradictions(delivery, part)
    if (delivery.valid_until && Date.parse(delivery.valid_until) < Date.now()) {
      found.push({ facet: 'valid_until', expected: delivery.valid_until, actual: new Date().toISOString() })
    }
    return found
  }

  /** The facets, all or some, and the position that they stand at. */
  async context({ facets = [], prefix, atLeast, signal } = {}) {
    const query = new URLSearchParams(facets.map((name) => ['facet', name]))
    if (prefix !== undefined) query.set('prefix', prefix)
    if (atLeast) query.set('at_least', atLeast)
    return (await this._http.json('GET', `${this._path}/context?${query}`, { signal })).answer
  }

  /** The session's tasks: open ones, and the last ones that ended. */
  async tasks({ atLeast, signal } = {}) {
    const query = atLeast ? `?at_least=${encodeURIComponent(atLeast)}` : ''
    return (await this._http.json('GET', `${this._path}/tasks${query}`, { signal })).answer
  }

  /** What waits for the user: held results, and delivered ones that nobody has acknowledged. */
  async inbox({ signal } = {}) {
    return (await this._http.json('GET', `${this._path}/inbox`, { signal })).answer
  }

  /**
   * The session's events, without gaps or repetitions, across reconnections. After `reset` the gap was too long: the
   * event has a snapshot to begin with anew.
   *
   * @param {object} [options]
   * @param {string | null} [options.cursor] go on after this one; without it from now on
   * @param {boolean} [options.shared] one connection for all tabs of this browser (default: where that is possible)
   * @param {AbortSignal} [options.signal]
   * @param {(state: { connected: boolean, leader: boolean }) => void} [options.onState]
   */
  async *events({ cursor = null, shared, signal, onState = () => {} } = {}) {
    const ended = new AbortController()
    const stop = () => ended.abort(signal.reason)
    if (signal?.aborted) return
    signal?.addEventListener('abort', stop, { once: true })
    const queue = []
    let wake = () => {}
    let failure = null
    const held = new Set()
    const following = follow({
      http: this._http,
      path: `${this._path}/events?client=${encodeURIComponent(this.client)}`,
      name: `tidegate:${this._http.url}:${this.id}`,
      cursor,
      shared: shared ?? (typeof BroadcastChannel !== 'undefined' && !!globalThis.navigator?.locks),
      signal: ended.signal,
      onState,
      emit: (event) => {
        queue.push(event)
        wake()
      },
    }).catch((error) => {
      failure = error
      wake()
    })
    try {
      while (!ended.signal.aborted) {
        while (queue.length) {
          const event = queue.shift()
          if (event.type === 'held') held.add(event.data.task_id)
          // a result that was held and is decided now
          if (event.type === 'delivered' || event.type === 'withheld') {
            event.released = held.delete(event.data.task_id)
          }
          if (event.type === 'reset') {
            event.snapshot = await this._snapshot(ended.signal).catch((error) => {
              if (!ended.signal.aborted) throw error
            })
            if (ended.signal.aborted) return
          }
          yield event
        }
        if (failure) throw failure
        await new Promise((resolve) => {
          wake = resolve
          ended.signal.addEventListener('abort', resolve, { once: true })
        })
      }
    } finally {
      signal?.removeEventListener('abort', stop)
      ended.abort()
      await following
    }
  }

  async _snapshot(signal) {
    const [context, tasks, inbox] = await Promise.all([
      this.context({ signal }),
      this.tasks({ signal }),
      this.inbox({ signal }),
    ])
    return { facets: context.facets, tasks: tasks.tasks, held: inbox.held, unacknowledged: inbox.unacknowledged }
  }
}

/** One task of a session. */
export class Task {
  constructor(session, id, position) {
    this.session = session
    this.id = id
    /** Where its dispatch is; null if the task was not dispatched here. */
    this.position = position
    this._path = `${session._path}/tasks/${segment(id)}`
  }

  /** Its status; once it was delivered, with its `results`. With `wait` seconds and the `etag` of the last answer: once it has changed, or null. */
  async status({ wait = 0, etag, signal } = {}) {
    const headers = etag ? { 'If-None-Match': etag } : {}
    const found = await this.session._http.json('GET', `${this._path}${wait ? `?wait=${wait}` : ''}`, { headers, signal })
    return found.status === 304 ? null : { ...found.answer, etag: found.etag }
  }

  /** Cancel it, with its children. With `wait` seconds: resolves with its last status and the receipt. */
  async cancel({ reason, wait = 0, signal } = {}) {
    const body = reason ? { reason } : {}
    const path = `${this._path}/cancel${wait ? `?wait=${wait}` : ''}`
    return (await this.session._http.json('POST', path, { body, signal })).answer
  }
}
