// Elapsed time, for silence and back-off.

/** A difference between the two clocks that grows by more milliseconds than that at once: the machine slept. */
const SLEPT = 1_000
let lead = Infinity
let slept = 0

/**
 * Returns milliseconds of a clock that never goes back, and goes on while the machine sleeps. `Date.now()` goes back when
 * the clock is set, and `performance.now()` stands still in the sleep of some systems.
 */
export function now(): number {
  const running = performance.now()
  const before = lead
  lead = Date.now() - running
  if (lead - before > SLEPT) slept += lead - before
  return running + slept
}
