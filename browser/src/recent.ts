// A bounded set of recent ids.

const MAX_RECENT = 1024

/** Adds an id. If there are too many, drops the oldest id and returns it. */
export function addRecent(ids: Set<number>, id: number): number | undefined {
  ids.add(id)
  if (ids.size <= MAX_RECENT) return undefined
  const [oldest] = ids
  ids.delete(oldest!)
  return oldest
}
