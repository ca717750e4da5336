// A cursor is a vector of Kafka positions: `1-<topics>-<partition>-<position>-<position>-...`.

const PATTERN = /^(1-[0-9a-f]{8}-\d+)((?:-\d+)+)$/

function parse(cursor) {
  const found = PATTERN.exec(cursor)
  return found && { head: found[1], positions: found[2].slice(1).split('-').map(Number) }
}

/** Whether everything at `cursor` has been seen by somebody who stands at `seen`. */
export function isSeen(cursor, seen) {
  if (!cursor || !seen) return false
  const one = parse(cursor)
  const other = parse(seen)
  return !!one && !!other && one.head === other.head && one.positions.every((at, role) => at <= other.positions[role])
}

/** Where somebody stands who has seen what is at both cursors. */
export function later(cursor, other) {
  if (!cursor || !other) return cursor || other
  const one = parse(cursor)
  const two = parse(other)
  if (!one || !two || one.head !== two.head) return cursor
  return `${one.head}-${one.positions.map((at, role) => Math.max(at, two.positions[role])).join('-')}`
}
