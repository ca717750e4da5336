// Several tabs that share one stream, in one process: a lock that passes from tab to tab, and Node's BroadcastChannel.

import assert from 'node:assert/strict'
import { createServer } from 'node:http'
import { test } from 'node:test'

import { Tidegate } from '../src/index.js'

// Web Locks, as far as the client uses them; Node has them from version 24 on.
const queues = new Map()
const locks = {
  async request(name, { signal }, work) {
    const before = queues.get(name) || Promise.resolve()
    let release
    queues.set(name, before.then(() => new Promise((resolve) => (release = resolve))))
    const aborted = new Promise((_, reject) => signal.addEventListener('abort', () => reject(signal.reason), { once: true }))
    try {
      await Promise.race([before, aborted])
      return await work()
    } finally {
      before.then(() => setTimeout(() => release()))
    }
  },
}
Object.defineProperty(globalThis, 'navigator', { value: { locks }, configurable: true })

const at = (position) => `1-aaaaaaaa-0-${position}`
const numbers = (from, to) => Array.from({ length: to - from + 1 }, (_, index) => from + index)

/** A gateway with one topic, of which every event is a delivery. `hold(request)` may delay what a connection gets. */
async function gateway(body) {
  const made = { end: 0, connections: [], hold: async () => {}, resets: false }
  const open = new Set()
  const send = (stream, number) => stream.write(`id: ${at(number)}\nevent: delivered\ndata: {"task_id":${number}}\n\n`)
  made.commit = (count = 1) => {
    for (let each = 0; each < count; each++) {
      made.end += 1
      open.forEach((stream) => send(stream, made.end))
    }
  }
  made.cut = () => open.forEach((stream) => stream.destroy())
  const server = createServer(async (request, response) => {
    if (!request.url.includes('/events')) return response.end('{}') // the snapshot after a reset
    const cursor = request.headers['last-event-id']
    made.connections.push(cursor)
    response.on('close', () => open.delete(response))
    response.writeHead(200, { 'Content-Type': 'text/event-stream' })
    response.write('retry: 1000\n\n')
    await made.hold(cursor)
    if (made.resets && cursor) response.write('event: reset\ndata: {"reason":"too old"}\n\n')
    else if (cursor) numbers(Number(cursor.split('-')[3]) + 1, made.end).forEach((number) => send(response, number))
    response.write(`id: ${at(made.end)}\n\n`)
    open.add(response)
  })
  await new Promise((resolve) => server.listen(0, '127.0.0.1', resolve))
  const url = `http://127.0.0.1:${server.address().port}`
  const tabs = []
  const tab = (cursor = null) => {
    const found = { numbers: [], types: [], state: { connected: false }, ended: new AbortController() }
    const events = new Tidegate({ url }).session('s').events({
      cursor,
      shared: true,
      signal: found.ended.signal,
      onState: (state) => (found.state = state),
    })
    const reading = (async () => {
      for await (const { type, data } of events) {
        found.types.push(type)
        if (type === 'delivered') found.numbers.push(data.task_id)
      }
    })()
    found.close = () => {
      found.ended.abort()
      return reading
    }
    tabs.push(found)
    return found
  }
  try {
    await body(made, tab, url)
  } finally {
    await Promise.allSettled(tabs.map((each) => each.close()))
    server.closeAllConnections()
    server.close()
  }
}

async function until(condition, describe) {
  const deadline = Date.now() + 10_000
  while (!condition()) {
    assert.ok(Date.now() < deadline, describe)
    await new Promise((resolve) => setTimeout(resolve, 5))
  }
}

test('tabs share one connection, and the next tab goes on when the first one closes', async () => {
  await gateway(async (gate, tab) => {
    const [first, second] = [tab(), tab()]
    await until(() => first.state.connected && second.state.connected, 'both are connected')
    assert.deepEqual([first.state.leader, second.state.leader], [true, false])
    gate.commit(3)
    await until(() => second.numbers.length === 3, 'the second tab hears by the first one')
    assert.equal(gate.connections.length, 1)
    await first.close()
    gate.commit(2)
    await until(() => second.numbers.length === 5, 'and goes on by itself')
    assert.deepEqual(second.numbers, [1, 2, 3, 4, 5])
    assert.equal(second.state.leader, true)
  })
})

test('a tab that was away reads for itself what it has missed, before what is broadcast', async () => {
  await gateway(async (gate, tab) => {
    gate.commit(4)
    const first = tab()
    await until(() => first.state.connected, 'the first tab is connected')
    let goOn
    gate.hold = () => new Promise((resolve) => (goOn = resolve))
    const late = tab(at(1))
    await until(() => goOn, 'it has a connection of its own')
    assert.equal(late.state.connected, false, 'it does not say that it is connected while it has a gap')
    gate.commit(2)
    await until(() => first.numbers.length === 2, 'the first tab goes on')
    goOn()
    await until(() => late.state.connected, 'the gap is closed')
    gate.commit()
    await until(() => late.numbers.at(-1) === 7, 'it goes on with the others')
    assert.deepEqual(late.numbers, [2, 3, 4, 5, 6, 7])
  })
})

test('nothing is missed if the leading tab closes while another one still reads what it has missed', async () => {
  await gateway(async (gate, tab) => {
    gate.commit(4)
    const first = tab()
    await until(() => first.state.connected, 'the first tab is connected')
    let goOn
    gate.hold = () => new Promise((resolve) => (goOn = resolve))
    const late = tab(at(1))
    await until(() => goOn, 'it has a connection of its own')
    gate.hold = async () => {}
    gate.commit(2) // broadcast, beyond the gap
    await until(() => first.numbers.length === 2, 'the first tab goes on')
    await first.close()
    await until(() => late.numbers.length === 5, 'the late tab leads now')
    assert.deepEqual(late.numbers, [2, 3, 4, 5, 6])
    assert.equal(gate.connections.at(-1), at(1), 'from its own cursor on')
  })
})

test('what is broadcast is not taken before it is known where the leading tab stands', async () => {
  await gateway(async (gate, tab, url) => {
    gate.commit(5)
    const name = `tidegate:${url}:s`
    let release
    const busy = new Promise((resolve) => (release = resolve))
    const holding = locks.request(name, { signal: new AbortController().signal }, () => busy)
    const leading = new BroadcastChannel(name) // a tab that is too busy to answer
    const late = tab(at(2))
    let asked = 0
    leading.onmessage = ({ data }) => {
      if (data.kind !== 'where') return
      asked += 1
      if (asked === 1) leading.postMessage({ kind: 'event', event: { type: 'delivered', data: { task_id: 5 }, cursor: at(5) } })
      if (asked > 22) leading.postMessage({ kind: 'here', cursor: at(5), connected: true })
    }
    await until(() => late.numbers.length, 'it has taken something')
    assert.ok(asked > 22)
    await until(() => late.state.connected, 'it has caught up')
    assert.deepEqual(late.numbers, [3, 4, 5])
    leading.close()
    release()
    await holding
  })
})

test('a tab without a cursor goes on where the leading tab was, even before anything is broadcast', async () => {
  await gateway(async (gate, tab) => {
    const first = tab()
    await until(() => first.state.connected, 'the first tab is connected')
    const second = tab()
    await until(() => second.state.connected, 'the second tab has joined')
    gate.hold = () => new Promise(() => {}) // what comes now meets a tab that is not connected yet
    await first.close()
    gate.hold = async () => {}
    gate.commit(2)
    gate.cut()
    await until(() => second.numbers.length === 2, 'it has missed nothing')
    assert.deepEqual(gate.connections.slice(1), Array(gate.connections.length - 1).fill(at(0)))
  })
})

test('a message that was lost with a closing tab is read again', async () => {
  await gateway(async (gate, tab, url) => {
    const first = tab()
    await until(() => first.state.connected, 'the first tab is connected')
    const second = tab()
    await until(() => second.state.connected, 'the second tab has joined')
    gate.end = 3 // the next tab to lead has these, the second one not
    const next = new BroadcastChannel(`tidegate:${url}:s`)
    next.onmessage = ({ data }) => data.kind === 'where' && next.postMessage({ kind: 'here', cursor: at(3), connected: true })
    next.postMessage({ kind: 'here', cursor: at(3), connected: true })
    await until(() => second.numbers.length === 3, 'it has read the gap')
    next.close()
    assert.deepEqual(second.numbers, [1, 2, 3])
  })
})

test('after a reset the new position counts, even if it is before the old one', async () => {
  await gateway(async (gate, tab) => {
    gate.resets = true
    const first = tab(at(100))
    await until(() => first.types.includes('reset') || first.state.connected, 'it is told')
    gate.commit(2)
    await until(() => first.numbers.length === 2, 'and goes on from there')
    assert.deepEqual(first.numbers, [1, 2])
  })
})
