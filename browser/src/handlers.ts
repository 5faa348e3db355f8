// `Handlers`: the handlers of one channel.

import type { Call } from "./api.js"

/** Handles an event or a request. Its result is the response; an iterable is sent as a stream. */
export type Handler = (this: Call, ...args: any[]) => unknown

/** The handlers of one channel, by the names of their events. */
export class Handlers {
  readonly #byEvent = new Map<string, Set<Handler>>()

  /** @returns a function that removes the handler */
  add(event: string, handler: Handler): () => void {
    const handlers = this.#byEvent.get(event) ?? new Set()
    this.#byEvent.set(event, handlers.add(handler))
    return () => handlers.delete(handler)
  }

  /** Returns the handlers in the order in which they were added. */
  of(event: string): Handler[] {
    return [...(this.#byEvent.get(event) ?? [])]
  }
}

/**
 * Reports an exception that nobody catches. `window.onerror` gets the exception, as for a listener of a DOM event. In
 * Node, where an uncaught exception would end the process, it is written to the console.
 */
export function report(error: unknown): void {
  ;(globalThis.reportError ?? console.error)(error)
}

/** Runs a function of a user, and reports its exception. */
export function guarded(run: () => void): void {
  try {
    run()
  } catch (error) {
    report(error)
  }
}
