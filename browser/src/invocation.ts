// `Invocation`: one call of a handler.

import type { Call, Source } from "./api.js"
import { FINISHED, type ChannelCore } from "./channel_core.js"
import type { Message } from "./codec.js"
import type { CallContext, Metadata } from "./call_context.js"
import { Producer } from "./producer.js"
import { Stream } from "./stream.js"

/** What an invocation needs of its peer. */
export interface InvocationOwner {
  /**
   * Answers a request, unless the server has cancelled the request, or has got an answer already.
   *
   * @throws Refused, TypeError if the answer cannot be sent, so that the server still awaits an answer
   */
  reply(invocation: Invocation, answer: Message): void
  /** Answers a request with an error, as `reply` does. */
  reject(invocation: Invocation, reason: unknown): void
  /** Answers a request with a channel. If the server has cancelled the request, the channel has ended already. */
  openChannel(invocation: Invocation): ChannelCore
}

/** One call of a handler, for an event or a request of the server. */
export class Invocation implements Call {
  readonly #owner: InvocationOwner
  declare readonly id: number | undefined
  /** The id of the anonymous channel on which the event or the request arrived. */
  declare readonly h: number | undefined
  readonly #context: CallContext | undefined
  readonly #controller = new AbortController()
  readonly signal = this.#controller.signal
  #channel: ChannelCore | undefined
  #items: Stream<any> | undefined
  /** The request with which an upload ends, and the result of the handler, which answers this request. */
  #lastRequest: Message | undefined
  #result: Message | undefined

  constructor(owner: InvocationOwner, id: number | undefined, context?: CallContext, h?: number) {
    this.#owner = owner
    this.id = id
    this.h = h
    this.#context = context
  }

  get metadata(): Metadata {
    return this.#context?.metadata ?? {}
  }

  get room(): string | undefined {
    return this.#context?.at?.[0]
  }

  get position(): string | undefined {
    return this.#context?.at?.[1]
  }

  get remaining(): number | undefined {
    return this.#context?.remaining_ms
  }

  channel(): ChannelCore {
    if (this.id === undefined) throw new TypeError("an event opens no channel")
    if (!this.#channel) {
      this.#channel = this.#owner.openChannel(this)
      void this.#channel.closed.then((error) => this.#controller.abort(error))
    }
    return this.#channel
  }

  items<T>(): Stream<T> {
    const channel = this.channel()
    const ended = (message: Message) => {
      this.#lastRequest = message
      this.#finishUpload()
    }
    return (this.#items ??= new Stream<T>(async () => channel, ended))
  }

  cancel(reason: Error): void {
    this.#controller.abort(reason)
    this.#owner.reject(this, reason)
  }

  async run(handle: () => unknown): Promise<void> {
    try {
      const result = await handle()
      if (this.#items) {
        this.#result = { d: result }
        if (!this.#lastRequest) await this.#items.return()
        this.#finishUpload()
      } else if (this.#channel) this.#channel.close()
      else if (isStream(result)) {
        const channel = this.channel()
        await new Producer(channel).run(result)
        channel.emit("next", { done: true })
        channel.end(FINISHED)
      } else this.#owner.reply(this, { d: result })
    } catch (error) {
      if (this.#channel) this.#channel.abort(error)
      else this.#owner.reject(this, error)
    }
  }

  #finishUpload(): void {
    if (!this.#result || !this.#lastRequest) return
    try {
      this.#channel!.answer(this.#lastRequest, this.#result)
      this.#channel!.end(FINISHED)
    } catch (error) {
      this.#channel!.abort(error) // because the result cannot be sent
    }
  }
}

/** Whether a handler has returned a stream: an async iterable or a generator. Arrays and strings are values. */
function isStream(value: unknown): value is Source<unknown> {
  if (typeof value !== "object" || value === null) return false
  return Symbol.asyncIterator in value || (Symbol.iterator in value && "next" in value)
}
