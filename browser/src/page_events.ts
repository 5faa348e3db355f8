// Events of the page: it wakes up, or stops. A program without a page, as in Node, has no such events.

function listen<E extends Event>(
  target: EventTarget | undefined,
  type: string,
  listener: (event: E) => void,
  signal: AbortSignal,
): void {
  target?.addEventListener?.(type, listener as EventListener, { signal })
}

const program = globalThis as unknown as EventTarget

/**
 * Calls a function when the page wakes up, or the network is back.
 *
 * @param wake gets whether connections have probably ended meanwhile
 */
export function onWake(wake: (probablyLost: boolean) => void, signal: AbortSignal): void {
  const page = globalThis.document
  listen(program, "online", () => wake(true), signal)
  listen(program, "pageshow", () => wake(false), signal)
  listen(page, "resume", () => wake(true), signal) // the page was frozen, and may still be hidden
  listen(page, "visibilitychange", () => page.visibilityState !== "hidden" && wake(false), signal)
}

/**
 * Calls a function when the page stops.
 *
 * @param stop gets whether the page may wake up again
 */
export function onStop(stop: (mayWake: boolean) => void, signal: AbortSignal): void {
  listen<PageTransitionEvent>(program, "pagehide", ({ persisted }) => stop(persisted), signal)
  listen(globalThis.document, "freeze", () => stop(true), signal)
}
