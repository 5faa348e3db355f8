// Anonymous channels.

import type { CallOptions, Channel } from "./api.js"
import type { Message } from "./codec.js"
import { MESSAGE } from "./data.js"
import { Aborted, ChannelClosed, textOf } from "./errors.js"
import { Handlers, type Handler } from "./handlers.js"
import { Request } from "./request.js"

/** The reason of a channel that ends in good order. */
export const FINISHED = { message: "closed", code: "wsrpc.closed" }
/** Bytes that may wait on a channel until something listens. */
const UNREAD = 1024 * 1024

/** A reader or a producer, which gets the messages of a channel before its handlers do. */
export interface Recipient {
  /** Returns whether it has taken a message. Otherwise a handler gets it. */
  receive(event: string, message: Message, size: number): boolean
  /** The other side has given credit, in totals. */
  credited(items: number, bytes: number): void
  /** The channel has ended. The error is undefined if it ended in good order. */
  channelEnded(error: Error | undefined): void
}

/** What a channel needs of its session. */
export interface ChannelOwner {
  /** Whether the other side keeps to credit when it produces. */
  readonly hasCredit: boolean
  /** Gives credit for a channel, in totals. */
  grant(h: number, items: number, bytes: number): void
  /** Sends a message, and returns its size. */
  send(message: Message): number
  request(request: Request): Promise<any>
  /** Tells the other side why a channel has ended. */
  tell(message: Message, key: "x", reason: unknown): void
  /** Runs the handlers of an event, or the handler of a request. */
  run(handlers: Handlers, message: Message): void
  /** Forgets a channel that has ended, and the requests on it. */
  forget(channel: ChannelCore, error: Error): void
}

/** An anonymous channel: a conversation, or what carries a stream. It ends with its session. */
export class ChannelCore implements Channel {
  readonly id: number
  readonly closed: Promise<Error | undefined>
  readonly #owner: ChannelOwner
  readonly #handlers = new Handlers()
  /** What came before anything listened. Undefined once something does. */
  #early: [Message, number][] | undefined = []
  #earlyBytes = 0
  #credit: [items: number, bytes: number] | undefined
  #recipient: Recipient | undefined
  #ended: { error: Error | undefined } | undefined
  #resolve!: (error: Error | undefined) => void
  readonly #signal: AbortSignal | undefined
  readonly #abort = () => {
    const reason: unknown = this.#signal!.reason
    this.#leave(reason, new Aborted("unknown", reason))
  }

  /** @param signal aborts the channel */
  constructor(id: number, owner: ChannelOwner, signal?: AbortSignal) {
    this.id = id
    this.#owner = owner
    this.closed = new Promise((resolve) => (this.#resolve = resolve))
    this.#signal = signal
    signal?.addEventListener("abort", this.#abort)
  }

  get isOpen(): boolean {
    return !this.#ended
  }

  // ------------------------------------------------------------ what users call

  on(event: string, handler: Handler): () => void {
    queueMicrotask(() => this.#deliverEarly())
    return this.#handlers.add(event, handler)
  }

  emit(event: string, ...args: unknown[]): void {
    this.send(event, args)
  }

  request(event: string, ...args: unknown[]): Promise<any> {
    return this.ask(event, args)
  }

  with(options: CallOptions): Pick<Channel, "request"> {
    return { request: (event, ...args) => this.ask(event, args, options) }
  }

  close(): void {
    this.abort(FINISHED)
  }

  abort(reason?: unknown): void {
    this.#leave(reason, reason)
  }

  // ------------------------------------------------------------ what readers, producers and handlers call

  /** Sends a request, as `request` does. */
  async ask(event: string, args: unknown[], options: CallOptions = {}): Promise<any> {
    this.#check()
    return this.#owner.request(new Request({ h: this.id }, event, args, options))
  }

  /** Sends an event, and returns its size. */
  send(event: string, args: unknown[]): number {
    this.#check()
    return this.#owner.send({ h: this.id, a: [event, ...args] })
  }

  /** Answers a message that came on the channel, if it was a request. */
  answer(message: Message, result: Message = {}): void {
    if (message.i !== undefined && !this.#ended) this.#owner.send({ i: message.i, ...result })
  }

  /** Whether the other side keeps to credit when it produces. */
  get hasCredit(): boolean {
    return this.#owner.hasCredit
  }

  /** Gives the other side credit, in totals. */
  grant(items: number, bytes: number): void {
    this.#owner.grant(this.id, items, bytes)
  }

  /** Lets a reader or a producer have the messages of the channel. */
  setRecipient(recipient: Recipient): void {
    this.#recipient = recipient
    if (this.#credit) recipient.credited(...this.#credit)
    this.#deliverEarly()
    if (this.#ended) recipient.channelEnded(this.#ended.error)
  }

  #check(): void {
    if (!this.#ended) return
    const error = new ChannelClosed("the channel has ended", "not_sent")
    error.cause = this.#ended.error
    throw error
  }

  #deliverEarly(): void {
    const early = this.#early ?? []
    this.#early = undefined
    for (const [message, size] of early) this.receive(message, size)
  }

  /** Ends the channel with a reason for the other side and one for this side. */
  #leave(there: unknown, here: unknown): void {
    if (this.#ended) return
    this.#owner.tell({ h: this.id }, "x", there)
    this.end(here)
  }

  // ------------------------------------------------------------ what the session reports

  receive(message: Message, size: number): void {
    if (this.#early) {
      this.#early.push([message, size])
      this.#earlyBytes += size + MESSAGE
      if (this.#earlyBytes > UNREAD) {
        this.#early = undefined
        this.abort(new ChannelClosed("nothing reads what comes on the channel", "ran"))
      }
    } else if (!this.#recipient?.receive(String(message.a![0]), message, size)) {
      this.#owner.run(this.#handlers, message)
    }
  }

  credited(items: number, bytes: number): void {
    if (Number.isNaN(items + bytes)) return // the credit makes no sense
    this.#credit = [items, bytes]
    this.#recipient?.credited(items, bytes)
  }

  /** Ends the channel on this side. The other side knows already. */
  end(reason: unknown): void {
    if (this.#ended) return
    const { code, data, message } = (reason ?? {}) as { code?: string; data?: unknown; message?: string }
    const closed = new ChannelClosed(textOf(message ?? reason ?? "the channel has ended"), "unknown", code, data)
    closed.cause = reason
    this.#ended = { error: code === FINISHED.code ? undefined : reason instanceof Error ? reason : closed }
    this.#signal?.removeEventListener("abort", this.#abort)
    this.#owner.forget(this, closed)
    this.#recipient?.channelEnded(this.#ended.error)
    this.#resolve(this.#ended.error)
  }
}
