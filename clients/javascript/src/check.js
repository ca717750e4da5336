// The last check: has this page written something since the verdict that contradicts what a delivery depends on?

/** What a page has written: by facet, the last value and where it is on the context topic (null while on its way). */
export class Written {
  constructor() {
    this._facets = new Map()
  }

  /** Note a write before it is sent. Returns what to call with the offset once it is acknowledged. */
  begin(set, unset) {
    const entries = []
    for (const [name, value] of [...Object.entries(set), ...unset.map((name) => [name, null])]) {
      const entry = { value, offset: null }
      this._facets.set(name, entry)
      entries.push(entry)
    }
    return (offset) => entries.forEach((entry) => (entry.offset = offset))
  }

  /**
   * The facets that this page has changed since the verdict, to something else than the part depends on.
   * @returns {{ facet: string, expected: string | null, actual: string | null }[]}
   */
  contradictions(delivery, part) {
    const found = []
    const judged = delivery.verdict.judged.context_offset
    for (const [facet, expected] of Object.entries(delivery.snapshot || {})) {
      if (part?.depends_on && !part.depends_on.includes(facet)) continue
      const entry = this._facets.get(facet)
      if (!entry || (entry.offset !== null && entry.offset < judged)) continue // the verdict knew it
      if (entry.value !== expected) found.push({ facet, expected, actual: entry.value })
    }
    return found
  }
}
