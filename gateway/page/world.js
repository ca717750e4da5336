// What the page shows, as a fold over a log: what the user did, and what agents returned.
//
// The log is folded twice: as the gate decided, and as if everything that returned were applied at once.

export const HOURS = [9, 18]

export const BEGINNING = {
  meetings: [
    { id: 'standup', title: 'Stand-up', start: 9.5, end: 10 },
    { id: 'budget', title: 'Budget review', start: 11, end: 12 },
    { id: 'doctor', title: 'Dentist', start: 14, end: 15 },
  ],
  paragraphs: [
    'we go to lisbon in may and we want to see many things there but not too many',
    'the flight should be cheap and not so early, hotel near the old town',
  ],
  conversations: [{ id: 'c1', title: 'Lisbon' }],
}

/** The world after the log. `gated`: only what the gate delivered is applied. */
export function fold(log, gated) {
  const world = {
    meetings: BEGINNING.meetings.map((each) => ({ ...each })),
    paragraphs: BEGINNING.paragraphs.map((text) => ({ text, mark: null })),
    conversations: BEGINNING.conversations.map((each) => ({ ...each })),
    conversation: 'c1',
    messages: [],
    found: {},
    archived: new Set(),
  }
  const applied = new Set()
  for (const entry of log) {
    if (entry.kind === 'user') moves[entry.move]?.(world, entry)
    else applyResult(world, entry, gated, applied)
  }
  return world
}

const moves = {
  meeting: (world, { id, start, end, title }) => {
    const found = world.meetings.find((each) => each.id === id)
    if (found) Object.assign(found, { start, end })
    else world.meetings.push({ id, title, start, end })
  },
  unmeet: (world, { id }) => {
    world.meetings = world.meetings.filter((each) => each.id !== id)
  },
  edit: (world, { index, text }) => {
    world.paragraphs[index] = { text, mark: null }
  },
  conversation: (world, { id, title }) => {
    if (!world.conversations.some((each) => each.id === id)) world.conversations.push({ id, title })
    world.conversation = id
  },
  ask: (world, { conversation, request, text }) => world.messages.push({ mine: true, conversation, request, text }),
  archive: (world, { request }) => world.archived.add(request),
}

function applyResult(world, entry, gated, applied) {
  for (const part of entry.parts) {
    const name = `${entry.task_id} ${part.part_id}`
    const passes = part.decision === 'delivered' && !entry.refused
    if (applied.has(name) || (gated && !passes)) continue
    applied.add(name)
    const wrong = !passes || (!gated && part.annotated)
    const content = part.payload
    if (content.meeting) {
      world.meetings.push({ ...content.meeting, id: entry.task_id, byAgent: true, wrong })
    } else if (content.paragraph !== undefined) {
      world.paragraphs[content.paragraph] = { text: content.text, mark: wrong ? 'wrong' : 'agent' }
    } else if (content.offers) {
      world.found[gated ? content.view : entry.seen_view || content.view] = { offers: content.offers, wrong }
    } else if (content.text) {
      // without a gate an answer lands in whatever conversation is open
      const conversation = gated ? content.conversation || world.conversation : world.conversation
      world.messages.push({ conversation, text: content.text, wrong, stale: part.annotated, outdated: gated && part.annotated })
    }
  }
}

/** A short stand-in for a content, to be compared for equality. */
export function revision(content) {
  let hash = 5381
  for (const char of JSON.stringify(content)) hash = ((hash * 33) ^ char.codePointAt(0)) >>> 0
  return `r-${hash.toString(36)}`
}

export const dayRevision = (world) =>
  revision(world.meetings.filter((each) => !each.wrong).map((each) => [each.id, each.start, each.end]).sort())
