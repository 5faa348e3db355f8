// Anonymous channels.

import type { Args, Group, Handles, Of, Result, Shape } from "./api.js"
import type { Message } from "./codec.js"
import { Aborted, ChannelClosed, textOf } from "./errors.js"
import { Handlers, type Handler } from "./handlers.js"
import { MESSAGE } from "./ledger.js"
import type { Peer } from "./peer.js"
import { Request, type CallOptions } from "./request.js"

/** The reason of a channel that ends in good order. */
export const FINISHED = { message: "closed", code: "wsrpc.closed" }
/** Bytes that may wait on a channel until something listens. */
const UNREAD = 1024 * 1024

/** What reads or produces on a channel. */
export interface ChannelUser {
  /** Returns whether it has taken a message. Otherwise a handler gets it. */
  take(name: string, message: Message, size: number): boolean
  /** The other side has given credit, in totals. */
  credited(items: number, bytes: number): void
  /** The channel has ended. The error is undefined if it ended in good order. */
  ended(error: Error | undefined): void
}

/** An anonymous channel: a conversation, or what carries a stream. It ends with its session. */
export class Channel<A extends Shape = any> {
  readonly id: number
  /** Resolves when the channel has ended: with the error, or with undefined if it ended in good order. */
  readonly closed: Promise<Error | undefined>
  readonly #peer: Peer
  readonly #handlers = new Handlers()
  /** What came before anything listened. Undefined once something does. */
  #early: [Message, number][] | undefined = []
  #earlyBytes = 0
  #credit: [items: number, bytes: number] | undefined
  #user: ChannelUser | undefined
  #end: { error: Error | undefined } | undefined
  #resolve!: (error: Error | undefined) => void
  readonly #signal: AbortSignal | undefined
  readonly #abort = () => {
    const reason: unknown = this.#signal!.reason
    this.#leave(reason, new Aborted("unknown", reason))
  }

  /** @param signal aborts the channel */
  constructor(id: number, peer: Peer, signal?: AbortSignal) {
    this.id = id
    this.#peer = peer
    this.closed = new Promise((resolve) => (this.#resolve = resolve))
    this.#signal = signal
    signal?.addEventListener("abort", this.#abort)
  }

  get isOpen(): boolean {
    return this.#end === undefined
  }

  /**
   * Handles events and requests of this name. What came before the first handler is delivered when the present code has
   * run, so that all handlers can be registered before.
   *
   * @returns a function that removes the handler
   */
  on<K extends keyof Group<A, "handlers"> & string>(event: K, handler: Handles<Of<A, "handlers", K>>): () => void {
    queueMicrotask(() => this.#deliverEarly())
    return this.#handlers.add(event, handler as Handler)
  }

  /** @throws ChannelClosed if the channel has ended */
  emit<K extends keyof Group<A, "requests"> & string>(event: K, ...args: Args<Of<A, "requests", K>>): void {
    this.send(event, args)
  }

  /** @throws ChannelClosed if the channel has ended, or ends before the answer has come */
  request<K extends keyof Group<A, "requests"> & string>(
    event: K,
    ...args: Args<Of<A, "requests", K>>
  ): Promise<Result<Of<A, "requests", K>>> {
    return this.ask(event, args)
  }

  /** Returns what makes requests with a signal or a timeout. Without one, they wait as long as the channel is open. */
  with(options: CallOptions): Pick<Channel<A>, "request"> {
    return { request: (event, ...args) => this.ask(event, args, options) }
  }

  /** Sends a request, as `request` does. */
  async ask(event: string, args: unknown[], options: CallOptions = {}): Promise<any> {
    this.#check()
    return this.#peer.request(new Request({ h: this.id }, event, args, options))
  }

  /** Ends the channel in good order. */
  close(): void {
    this.abort(FINISHED)
  }

  /** Ends the channel. The other side gets the reason. */
  abort(reason?: unknown): void {
    this.#leave(reason, reason)
  }

  /** Ends the channel with a reason for the other side and one for this side. */
  #leave(there: unknown, here: unknown): void {
    if (this.#end) return
    this.#peer.tell({ h: this.id }, "x", there)
    this.over(here)
  }

  /** Sends an event, and returns its size. */
  send(event: string, args: unknown[]): number {
    this.#check()
    return this.#peer.send({ h: this.id, a: [event, ...args] })
  }

  /** Answers a message that came on the channel, if it was a request. */
  answer(message: Message, result: Message = {}): void {
    if (message.i !== undefined && !this.#end) this.#peer.send({ i: message.i, ...result })
  }

  /** Whether the other side keeps to credit when it produces. */
  get givesCredit(): boolean {
    return this.#peer.givesCredit
  }

  /** Gives the other side credit, in totals. */
  grant(items: number, bytes: number): void {
    this.#peer.grant(this.id, items, bytes)
  }

  /** Lets a reader or a producer have the messages of the channel. */
  use(user: ChannelUser): void {
    this.#user = user
    if (this.#credit) user.credited(...this.#credit)
    this.#deliverEarly()
    if (this.#end) user.ended(this.#end.error)
  }

  #check(): void {
    if (!this.#end) return
    const error = new ChannelClosed("the channel has ended", "not_sent")
    error.cause = this.#end.error
    throw error
  }

  #deliverEarly(): void {
    const early = this.#early ?? []
    this.#early = undefined
    for (const [message, size] of early) this.take(message, size)
  }

  // ------------------------------------------------------------ what the peer reports

  take(message: Message, size: number): void {
    if (this.#early) {
      this.#early.push([message, size])
      this.#earlyBytes += size + MESSAGE
      if (this.#earlyBytes > UNREAD) {
        this.#early = undefined
        this.abort(new ChannelClosed("nothing reads what comes on the channel", "ran"))
      }
    } else if (!this.#user?.take(String(message.a![0]), message, size)) {
      this.#peer.run(this.#handlers, message)
    }
  }

  credited(items: number, bytes: number): void {
    if (Number.isNaN(items + bytes)) return // the credit makes no sense
    this.#credit = [items, bytes]
    this.#user?.credited(items, bytes)
  }

  /** The channel is over, and the other side knows. */
  over(reason: unknown): void {
    if (this.#end) return
    const { code, data, message } = (reason ?? {}) as { code?: string; data?: unknown; message?: string }
    const closed = new ChannelClosed(textOf(message ?? reason ?? "the channel has ended"), "unknown", code, data)
    closed.cause = reason
    this.#end = { error: code === FINISHED.code ? undefined : reason instanceof Error ? reason : closed }
    this.#signal?.removeEventListener("abort", this.#abort)
    this.#peer.forget(this, closed)
    this.#user?.ended(this.#end.error)
    this.#resolve(this.#end.error)
  }
}
