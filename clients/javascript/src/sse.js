// Server-sent events over fetch. Source: HTML Living Standard, section 9.2.6.

/**
 * The blocks of an event stream, as `{ id, event, data, retry }` with the fields that each has.
 * @param {ReadableStream<Uint8Array>} body
 */
export async function* blocks(body) {
  const decoder = new TextDecoder()
  const reader = body.getReader()
  let text = ''
  try {
    for (;;) {
      const { done, value } = await reader.read()
      if (done) return // a block without its blank line is incomplete
      text += decoder.decode(value, { stream: true })
      let end
      while ((end = text.indexOf('\n\n')) >= 0) {
        yield fieldsOf(text.slice(0, end))
        text = text.slice(end + 2)
      }
    }
  } finally {
    reader.cancel().catch(() => {})
  }
}

function fieldsOf(block) {
  const fields = {}
  for (const line of block.split('\n')) {
    const colon = line.indexOf(':')
    if (colon <= 0) continue
    const name = line.slice(0, colon)
    const value = line.slice(line[colon + 1] === ' ' ? colon + 2 : colon + 1)
    fields[name] = name === 'data' && 'data' in fields ? `${fields.data}\n${value}` : value
  }
  return fields
}
