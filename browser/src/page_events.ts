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

/** What the events of a page are for. */
export interface PageOwner {
  /**
   * The page wakes up, or the network is back.
   *
   * @param probablyLost whether connections have probably ended meanwhile
   */
  wake(probablyLost: boolean): void
  /**
   * The page stops.
   *
   * @param mayWake whether the page may wake up again
   */
  park(mayWake: boolean): void
}

/** Calls the methods of an owner until the signal is aborted. */
export function listenToPage(owner: PageOwner, signal: AbortSignal): void {
  const page = globalThis.document
  listen(program, "online", () => owner.wake(true), signal)
  listen(program, "pageshow", () => owner.wake(false), signal)
  listen(page, "resume", () => owner.wake(true), signal) // the page was frozen, and may still be hidden
  listen(page, "visibilitychange", () => page.visibilityState !== "hidden" && owner.wake(false), signal)
  listen<PageTransitionEvent>(program, "pagehide", ({ persisted }) => owner.park(persisted), signal)
  listen(page, "freeze", () => owner.park(true), signal)
}
