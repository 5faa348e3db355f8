// `Request`: one request, from the call to the answer.

import type { CallOptions } from "./api.js"
import { LONGEST_TIMER } from "./clock.js"
import type { Message } from "./codec.js"
import { Aborted, RequestTimeout, type Outcome, type WsrpcError } from "./errors.js"
import type { Outgoing } from "./replay.js"

/** The channel of a message: a named channel `c`, an anonymous channel `h`, or else the main channel. */
export interface ChannelRef {
  readonly c?: string
  readonly h?: number
}

/** What a request waits in: the client's queue, or the pending requests of a session. */
export interface Holder {
  /** Removes a request, and cancels it at the server. Returns whether its message was sent. */
  withdraw(request: Request, reason: unknown): boolean
}

/** One request. First it may wait for a session, and then for its answer. */
export class Request {
  readonly answer: Promise<any>
  /** The message of the request, without the id. */
  readonly message: Message
  /** The message in the present session. Undefined while the request waits. */
  outgoing: Outgoing | undefined
  holder: Holder | undefined
  /** The id in the present session. 0 while the request waits. */
  id = 0
  isDone = false
  #resolve!: (result: unknown) => void
  #reject!: (error: unknown) => void
  #timer: ReturnType<typeof setTimeout> | undefined
  readonly signal: AbortSignal | undefined
  readonly #abort: (() => void) | undefined

  /** @param opens whether the answer is a channel */
  constructor(
    channel: ChannelRef,
    readonly event: string,
    args: readonly unknown[],
    { signal, timeout }: CallOptions,
    readonly opens = false,
  ) {
    this.answer = new Promise((resolve, reject) => {
      this.#resolve = resolve
      this.#reject = reject
    })
    this.message = { a: [event, ...args], ...channel }
    this.signal = signal
    if (timeout && timeout <= LONGEST_TIMER) {
      this.#timer = setTimeout(() => {
        const text = `no answer to "${event}" within ${timeout} ms`
        this.#giveUp((outcome) => new RequestTimeout(text, outcome))
      }, timeout)
    }
    if (signal) {
      this.#abort = () => this.#giveUp((outcome) => new Aborted(outcome, signal.reason), signal.reason)
      signal.addEventListener("abort", this.#abort)
      if (signal.aborted) this.#abort()
    }
  }

  resolve(result: unknown): void {
    this.#stop()
    this.#resolve(result)
  }

  reject(error: unknown): void {
    this.#stop()
    this.#reject(error)
  }

  #giveUp(make: (outcome: Outcome) => WsrpcError, reason?: unknown): void {
    this.reject(make(this.holder?.withdraw(this, reason) ? "unknown" : "not_sent"))
  }

  #stop(): void {
    this.isDone = true
    clearTimeout(this.#timer)
    this.signal?.removeEventListener("abort", this.#abort!)
  }
}
