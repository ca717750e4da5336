// Requests with a token, repeated where that is safe and helps.

/** An answer of the gateway that is an error: problem details as in RFC 9457. */
export class TidegateError extends Error {
  constructor(status, problem) {
    super(problem.detail || problem.title || `status ${status}`)
    this.name = 'TidegateError'
    this.status = status
    this.problem = problem
    /** The code at the end of the problem's type, such as `forbidden`. */
    this.code = String(problem.type || '').split(':').pop()
  }
}

export const sleep = (ms, signal) =>
  new Promise((resolve, reject) => {
    if (signal?.aborted) return reject(signal.reason)
    const done = () => {
      clearTimeout(timer)
      signal?.removeEventListener('abort', abort)
      globalThis.removeEventListener?.('online', done)
      resolve()
    }
    const abort = () => {
      clearTimeout(timer)
      globalThis.removeEventListener?.('online', done)
      reject(signal.reason)
    }
    const timer = setTimeout(done, ms)
    signal?.addEventListener('abort', abort, { once: true })
    globalThis.addEventListener?.('online', done) // the network is back: do not wait any longer
  })

/** Milliseconds before the next try: doubling from 250 ms to 10 s, with jitter, so that clients do not come at once. */
export const backoff = (failures) => Math.min(10_000, 250 * 2 ** failures) * (0.5 + Math.random() / 2)

const RETRIED = new Set([429, 502, 503, 504])

/** Path segment of an id. It survives proxies that decode `%2F`, and resolve `..`. */
export function segment(id) {
  if (/^[A-Za-z0-9_-][A-Za-z0-9._-]*$/.test(id)) return id
  const bytes = new TextEncoder().encode(id)
  return '~' + btoa(String.fromCharCode(...bytes)).replaceAll('+', '-').replaceAll('/', '_').replace(/=+$/, '')
}

export class Http {
  constructor({ url, token, fetch: send }) {
    this.url = url.replace(/\/$/, '')
    this._token = token
    this._fetch = send || ((...args) => globalThis.fetch(...args))
  }

  /** One request. A refused token is asked for once more. */
  async send(method, path, { body, headers = {}, signal, keepalive } = {}) {
    for (let attempt = 0; ; attempt++) {
      const token = typeof this._token === 'function' ? await this._token(attempt > 0) : this._token
      const response = await this._fetch(this.url + path, {
        method,
        body: body === undefined ? undefined : JSON.stringify(body),
        headers: {
          ...(body === undefined ? {} : { 'Content-Type': 'application/json' }),
          ...(token ? { Authorization: `Bearer ${token}` } : {}),
          ...headers,
        },
        cache: 'no-store',
        credentials: 'omit',
        keepalive,
        signal,
      })
      if (response.status === 401 && attempt === 0 && typeof this._token === 'function') continue
      return response
    }
  }

  /**
   * One request and its JSON, repeated while the network is away or the gateway asks for it. Requests that write carry
   * an `Idempotency-Key`, so that a repeated one is the same event.
   */
  async json(method, path, options = {}) {
    const headers = { ...(method === 'POST' ? { 'Idempotency-Key': crypto.randomUUID() } : {}), ...options.headers }
    for (let failures = 0; ; failures++) {
      let wait = backoff(failures)
      try {
        const response = await this.send(method, path, { ...options, headers })
        if (response.status === 304) return { status: 304, etag: response.headers.get('etag') }
        const answer = await response.json().catch(() => ({}))
        if (response.ok) return { status: response.status, answer, etag: response.headers.get('etag') }
        if (!RETRIED.has(response.status)) throw new TidegateError(response.status, answer)
        wait = Math.max(wait, 1000 * Number(response.headers.get('retry-after') || 0))
      } catch (error) {
        if (error instanceof TidegateError || options.signal?.aborted) throw error
      }
      await sleep(wait, options.signal)
    }
  }
}
