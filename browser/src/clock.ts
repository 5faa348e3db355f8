// Elapsed time, for silence and back-off, and the longest time of a timer.

/** The longest time of a timer, in milliseconds: 24 days. With a longer time, it would fire at once. */
export const LONGEST_TIMER = 2 ** 31 - 1

/** If the difference between the two clocks grows by more milliseconds at once, the machine has slept. */
const SLEPT = 1_000
let lead = Infinity
let slept = 0

/**
 * Returns the milliseconds of a clock that never goes back, and continues while the machine sleeps. `Date.now()` goes
 * back when the clock is set. `performance.now()` stands still while some systems sleep.
 */
export function now(): number {
  const running = performance.now()
  const before = lead
  lead = Date.now() - running
  if (lead - before > SLEPT) slept += lead - before
  return running + slept
}
