// A server that misbehaves: what the client makes of it.

import assert from 'node:assert/strict'
import { createServer } from 'node:http'
import { test } from 'node:test'

import { Tidegate, TidegateError } from '../src/index.js'

async function serving(answer, body) {
  const seen = []
  const server = createServer((request, response) => {
    let text = ''
    request.on('data', (chunk) => (text += chunk))
    request.on('end', () => {
      seen.push({ method: request.method, url: request.url, headers: request.headers, body: text })
      answer(seen.length, response, seen.at(-1))
    })
  })
  await new Promise((resolve) => server.listen(0, '127.0.0.1', resolve))
  try {
    await body(`http://127.0.0.1:${server.address().port}`, seen)
  } finally {
    server.closeAllConnections()
    server.close()
  }
}

const at = (...positions) => `1-aaaaaaaa-0-${positions.join('-')}`
const block = (cursor, name, data) => `id: ${cursor}\nevent: ${name}\ndata: ${JSON.stringify(data)}\n\n`
const json = (response, status, body, headers = {}) => {
  response.writeHead(status, { 'Content-Type': 'application/json', ...headers })
  response.end(JSON.stringify(body))
}

test('a stream goes on at its cursor after every kind of end, and drops what it has had', async () => {
  const answers = [
    (response) => {
      response.writeHead(200, { 'Content-Type': 'text/event-stream' })
      response.write(block(at(1, 0), 'held', { task_id: 'a' }))
      response.write('id: ' + at(1, 5) + '\n\nid: ' + at(2, 5) + '\nevent: delivered\ndata: {"cut') // in a block
      setTimeout(() => response.destroy(), 20)
    },
    (response) => json(response, 503, { type: 'urn:tidegate:problem:draining' }, { 'Retry-After': '0' }),
    (response) => {
      response.writeHead(200, { 'Content-Type': 'text/event-stream' })
      response.write(block(at(1, 0), 'held', { task_id: 'a' })) // a repetition
      response.write(block(at(2, 5), 'delivered', { task_id: 'a' }))
      response.end('event: reconnect\ndata: {}\n\n')
    },
    (response) => {
      response.writeHead(200, { 'Content-Type': 'text/event-stream' })
      response.write(block(at(2, 6), 'withheld', { task_id: 'b' }))
    },
  ]
  await serving(
    (number, response) => answers[number - 1](response),
    async (url, seen) => {
      const found = []
      for await (const event of new Tidegate({ url, token: 't' }).session('s').events({ shared: false })) {
        found.push([event.type, event.data.task_id, event.released])
        if (event.type === 'withheld') break
      }
      assert.deepEqual(found, [
        ['held', 'a', undefined],
        ['delivered', 'a', true],
        ['withheld', 'b', false],
      ])
      assert.deepEqual(
        seen.map((each) => each.headers['last-event-id']),
        [undefined, at(1, 5), at(1, 5), at(2, 5)],
      )
      assert.ok(seen.every((each) => each.headers.authorization === 'Bearer t' && each.url === '/v1/sessions/s/events?client=web'))
    },
  )
})

test('a stream that may not be read ends with the reason', async () => {
  await serving(
    (_, response) => json(response, 403, { type: 'urn:tidegate:problem:forbidden', detail: 'no' }),
    async (url) => {
      const events = new Tidegate({ url }).session('s').events({ shared: false })
      await assert.rejects(events.next(), (error) => error instanceof TidegateError && error.code === 'forbidden')
    },
  )
})

test('writes leave in order, one at a time, and are repeated with the same key', async () => {
  await serving(
    (number, response) =>
      number === 1 ? response.destroy() : setTimeout(() => json(response, 200, { position: `context:0:${number}` }), 20),
    async (url, seen) => {
      const session = new Tidegate({ url }).session('s', { client: 'laptop' })
      const positions = await Promise.all([session.navigated('a'), session.navigated('b'), session.set({ x: '1' })])
      assert.deepEqual(positions, ['context:0:2', 'context:0:3', 'context:0:4'])
      const bodies = seen.map((each) => JSON.parse(each.body).set)
      assert.deepEqual(bodies, [{ 'view/laptop': 'a' }, { 'view/laptop': 'a' }, { 'view/laptop': 'b' }, { x: '1' }])
      const keys = seen.map((each) => each.headers['idempotency-key'])
      assert.equal(keys[0], keys[1], 'the repeated write is the same event')
      assert.equal(new Set(keys).size, 3)
    },
  )
})

test('a write that is refused does not hold up the next one', async () => {
  await serving(
    (number, response) => (number === 1 ? json(response, 422, { detail: 'no' }) : json(response, 200, { position: 'context:0:1' })),
    async (url) => {
      const session = new Tidegate({ url }).session('s')
      const refused = session.set({ a: '1' })
      const taken = session.set({ b: '1' })
      await assert.rejects(refused, (error) => error.status === 422)
      assert.equal(await taken, 'context:0:1')
    },
  )
})

test('a refused token is asked for once more', async () => {
  await serving(
    (_, response, { headers }) =>
      headers.authorization === 'Bearer new' ? json(response, 200, { tasks: [] }) : json(response, 401, {}),
    async (url) => {
      const token = (refused) => (refused ? 'new' : 'old')
      assert.deepEqual(await new Tidegate({ url, token }).session('s').tasks(), { tasks: [] })
    },
  )
})
