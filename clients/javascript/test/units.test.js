import assert from 'node:assert/strict'
import { test } from 'node:test'

import { Written } from '../src/check.js'
import { isSeen, later } from '../src/cursor.js'
import { segment } from '../src/http.js'
import { blocks } from '../src/sse.js'

const stream = (...chunks) =>
  new ReadableStream({
    start(controller) {
      chunks.forEach((chunk) => controller.enqueue(chunk))
      controller.close()
    },
  })

test('blocks are found wherever the chunks are cut', async () => {
  const bytes = new TextEncoder().encode('retry: 1000\n\nid: 1\nevent: delivered\ndata: {"a":"ü: x"}\n\nid: 2\n\nid: 3\ndata: lost')
  for (let at = 1; at < bytes.length; at++) {
    const found = []
    for await (const block of blocks(stream(bytes.slice(0, at), bytes.slice(at)))) found.push(block)
    assert.deepEqual(found, [{ retry: '1000' }, { id: '1', event: 'delivered', data: '{"a":"ü: x"}' }, { id: '2' }])
  }
})

test('a cursor is seen if every position is', () => {
  assert.equal(isSeen('1-aaaaaaaa-0-1-2', '1-aaaaaaaa-0-1-3'), true)
  assert.equal(isSeen('1-aaaaaaaa-0-2-2', '1-aaaaaaaa-0-1-3'), false)
  assert.equal(isSeen('1-bbbbbbbb-0-1-2', '1-aaaaaaaa-0-1-3'), false, 'of other topics')
  assert.equal(isSeen('1-aaaaaaaa-0-1-2', null), false)
  assert.equal(later('1-aaaaaaaa-0-5-2', '1-aaaaaaaa-0-1-3'), '1-aaaaaaaa-0-5-3')
  assert.equal(later('1-bbbbbbbb-0-0-0', '1-aaaaaaaa-0-1-3'), '1-bbbbbbbb-0-0-0')
})

test('ids become path segments that nobody resolves or decodes', () => {
  assert.equal(segment('user-7'), 'user-7')
  for (const id of ['acme/user-7', '..', '.', 'a%2Fb', 'münchen', '~x', 'a?b#c', ' ']) {
    const text = segment(id)
    assert.match(text, /^~[A-Za-z0-9_-]+$/)
    assert.equal(Buffer.from(text.slice(1), 'base64url').toString(), id)
    assert.ok(new URL(`http://x/v1/sessions/${text}/events`).pathname.includes(text))
  }
})

const delivery = (snapshot, context_offset) => ({ snapshot, verdict: { judged: { context_offset } } })

test('what this page has written since the verdict contradicts a delivery', () => {
  const written = new Written()
  const acknowledged = written.begin({ view: 'hotels' }, ['gone'])
  const stale = delivery({ view: 'flights', gone: 'here', other: 'x' }, 10)
  assert.deepEqual(
    written.contradictions(stale).map((each) => each.facet),
    ['view', 'gone'],
    'a write on its way counts',
  )
  acknowledged(10)
  assert.equal(written.contradictions(stale).length, 2, 'the verdict did not know offset 10')
  assert.equal(written.contradictions(delivery({ view: 'flights' }, 11)).length, 0, 'the verdict knew it')
  assert.equal(written.contradictions(delivery({ view: 'hotels' }, 5)).length, 0, 'it is what the task depends on')
  assert.equal(written.contradictions(stale, { depends_on: ['other'] }).length, 0, 'only what the part depends on')
})
