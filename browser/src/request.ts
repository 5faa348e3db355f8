// `Request`: one request, from the call until its answer.

import type { CallOptions } from "./api.js"
import { Aborted, RequestTimeout, type Outcome, type WsrpcError } from "./errors.js"
import type { Kept } from "./ledger.js"

/** Where a message goes: the main channel, a named one or an anonymous one. */
export interface ChannelRef {
  readonly c?: string
  readonly h?: number
}

/** The longest time of a timer, in milliseconds: 24 days. With a longer one it would fire at once. */
const LONGEST = 2 ** 31 - 1

/** What a request waits in. */
export interface Holder {
  /** Lets a request go. Returns whether its message was sent. */
  withdraw(request: Request, reason: unknown): boolean
}

/** What sends requests. */
export interface Requester {
  request(request: Request): void
}

/** One request. First it may wait for a session, then for its answer. */
export class Request {
  readonly answer: Promise<any>
  /** What is kept of the message since it was sent, or waits in a session. */
  kept: Kept | undefined
  holder: Holder | undefined
  /** The id with which it was sent. */
  id = 0
  isDone = false
  #resolve!: (result: unknown) => void
  #reject!: (error: unknown) => void
  #timer: ReturnType<typeof setTimeout> | undefined
  readonly signal: AbortSignal | undefined
  readonly #abort: (() => void) | undefined

  /** @param opens whether the answer is a channel */
  constructor(
    readonly channel: ChannelRef,
    readonly event: string,
    readonly args: readonly unknown[],
    { signal, timeout }: CallOptions,
    readonly opens = false,
  ) {
    this.answer = new Promise((resolve, reject) => {
      this.#resolve = resolve
      this.#reject = reject
    })
    this.signal = signal
    if (timeout && timeout <= LONGEST) {
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

  start(requester: Requester): void {
    requester.request(this)
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
