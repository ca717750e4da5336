// Against a real gateway, worker and broker: TIDEGATE_URL, TIDEGATE_TOKEN and TIDEGATE_SESSION say where.

import assert from 'node:assert/strict'
import { test } from 'node:test'

import { Tidegate, TidegateError } from '../src/index.js'

const { TIDEGATE_URL: url, TIDEGATE_TOKEN: token, TIDEGATE_SESSION: id } = process.env
const skip = url ? false : 'TIDEGATE_URL is not set'

test('a session from the first facet to a receipt', { skip, timeout: 60_000 }, async () => {
  const session = new Tidegate({ url, token }).session(id, { client: 'node' })
  const found = []
  const stop = new AbortController()
  let ready
  const connected = new Promise((resolve) => (ready = resolve))
  const following = (async () => {
    for await (const event of session.events({ shared: false, signal: stop.signal, onState: (s) => s.connected && ready() })) {
      found.push(event)
    }
  })()
  const until = async (condition) => {
    while (!found.some(condition)) await new Promise((resolve) => setTimeout(resolve, 20))
  }
  await connected
  await session.present()
  const position = await session.navigated('flights')
  const { facets } = await session.context({ atLeast: position, prefix: 'view/' })
  assert.deepEqual(facets, { 'view/node': 'flights' })

  const task = await session.dispatch({ task_type: 'search', snapshot: { 'view/node': 'flights' }, plan: ['one', 'two'] })
  await until((event) => event.type === 'running' && event.data.task_id === task.id)
  await session.navigated('hotels')
  await until((event) => event.type === 'stale')
  assert.deepEqual(found.find((event) => event.type === 'stale').data.stale_facets, ['view/node'])

  const { receipt } = await task.cancel({ reason: 'no more', wait: 20 })
  assert.deepEqual(receipt.not_attempted, ['one', 'two'])
  await until((event) => event.type === 'cancelled')
  const status = await task.status()
  assert.equal(status.disposition, 'cancelled')
  assert.equal(await task.status({ etag: status.etag }), null)

  const key = 'click-1'
  const [one, two] = await Promise.all([1, 2].map(() => session.dispatch({ task_type: 'search' }, { key })))
  assert.equal(one.id, two.id)
  await assert.rejects(session.dispatch({ task_type: 'other' }, { key }), (error) => {
    return error instanceof TidegateError && error.code === 'idempotency_conflict'
  })
  await assert.rejects(new Tidegate({ url, token }).session('somebody/else').tasks(), (error) => error.code === 'forbidden')
  stop.abort()
  await following
})
