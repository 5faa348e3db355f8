// `Request`: one request, from the call to the answer.

import type { KeyOptions } from "./api.js"
import { LONGEST_TIMER } from "./clock.js"
import type { Message } from "./codec.js"
import { contextOf } from "./call_context.js"
import { Aborted, RequestTimeout, type Outcome, type WsrpcError } from "./errors.js"
import type { Outgoing } from "./replay.js"

/** The channel of a message: a named channel `c`, an anonymous channel `h`, or else the main channel. */
export interface ChannelRef {
  readonly c?: string
  readonly h?: number
}

/** Options of a request, with those that a caller does not write itself. */
export interface RequestOptions extends KeyOptions {
  /** The time limit in milliseconds if there is no `timeout`. The server does not learn it. */
  readonly requestTimeout?: number | undefined
  /** The id of the last argument, which is a message for the handler of the run with this key. */
  readonly message?: string
}

/** What a request waits in: the client's queue, or the pending requests of a session. */
export interface Holder {
  /** Removes a request, and cancels it at the server. Returns whether its message was sent. */
  withdraw(request: Request, reason: unknown): boolean
}

/** One request. First it may wait for a session, and then for its answer. */
export class Request {
  declare readonly opens: boolean
  declare readonly answer: Promise<any>
  /** The message of the request, without the id. */
  declare readonly message: Message
  /** The message in the present session. Undefined while the request waits. */
  declare outgoing: Outgoing | undefined
  /** Rejects the request, because its time is over. */
  declare expire: (() => void) | undefined
  declare holder: Holder | undefined
  /** The id in the present session. 0 while the request waits. */
  id = 0
  isDone = false
  #resolve!: (result: unknown) => void
  #reject!: (error: unknown) => void
  #timer: ReturnType<typeof setTimeout> | undefined
  declare readonly signal: AbortSignal | undefined
  readonly #abort: (() => void) | undefined

  /**
   * @param opens whether the answer is a channel
   * @throws TypeError if the metadata is not valid, or too large, or there is a position without a key
   */
  constructor(
    channel: ChannelRef,
    event: string,
    args: readonly unknown[],
    options: RequestOptions,
    opens = false,
  ) {
    const { signal, timeout, requestTimeout } = options
    this.answer = new Promise((resolve, reject) => {
      this.#resolve = resolve
      this.#reject = reject
    })
    this.message = { a: [event, ...args], ctx: contextOf(options, timeout || undefined), ...channel }
    this.signal = signal
    this.opens = opens
    const limit = timeout ?? requestTimeout
    if (limit && limit <= LONGEST_TIMER) {
      const text = `no answer to "${event}" within ${limit} ms`
      this.expire = () => this.#giveUp((outcome) => new RequestTimeout(text, outcome))
      this.#timer = setTimeout(this.expire, limit)
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
