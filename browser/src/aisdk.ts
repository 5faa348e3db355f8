// A transport for the chats of the AI SDK. It needs nothing of the SDK.

import { Chats, type Run, type Tools } from "./chats.js"
import type { Client } from "./client.js"

export type { Tools }

/** The types of the chunks that version 7 knows, apart from `data-…`. */
const CHUNKS = new Set(
  `abort custom error file finish finish-step message-metadata reasoning-delta reasoning-end reasoning-file
  reasoning-start reset-step source-document source-url start start-step steering-message text-delta text-end
  text-start tool-approval-request tool-approval-response tool-input-available tool-input-delta
  tool-input-error tool-input-start tool-output-available tool-output-denied tool-output-error`.split(/\s+/),
)

interface Sent {
  chatId: string
  messages: any[]
  trigger: string
  messageId?: string | undefined
  body?: object | undefined
  abortSignal?: AbortSignal | undefined
}

/**
 * Lets `useChat` read the runs of a handler, for which the server has `wsrpc_adapters.aisdk.chat`: over lost connections,
 * and with `resume: true`, after a reload and in a second tab.
 */
export class WsrpcTransport {
  /** A run that is joined is read from its first word. */
  readonly resumeStreamIsReplay = true
  readonly #chats: Chats

  /**
   * @param event the event of the handler: "event", or "channel:event" on a named channel
   */
  constructor(client: Client<any>, event: string, { tools }: { tools?: Tools } = {}) {
    this.#chats = new Chats(client, event, tools)
  }

  async sendMessages({ chatId, messages, trigger, messageId, body, abortSignal }: Sent): Promise<ReadableStream<any>> {
    const sent = { ...body, id: chatId, messages, trigger, messageId }
    const last = messages.at(-1)
    const answer = last?.role === "assistant" ? last.id : null
    const again = trigger === "regenerate-message"
    return stream(await this.#chats.ask(chatId, sent, last, answer, again, abortSignal), abortSignal)
  }

  async reconnectToStream({ chatId, abortSignal }: Pick<Sent, "chatId" | "abortSignal">): Promise<ReadableStream<any> | null> {
    const run = await this.#chats.join(chatId, abortSignal)
    return run && stream(run, abortSignal)
  }

  /** Stops the model, for all readers. The `stop` of a chat only ends its reading, as when its component is unmounted. */
  stop(chatId: string): Promise<void> {
    return this.#chats.stop(chatId)
  }
}

function stream(run: Run, signal: AbortSignal | undefined): ReadableStream<any> {
  const found = chunks(run, signal)
  return new ReadableStream({
    async pull(controller) {
      const { done, value } = await found.next()
      if (done) controller.close()
      else controller.enqueue(value)
    },
    cancel: () => run.leave(),
  })
}

async function* chunks(run: Run, signal: AbortSignal | undefined): AsyncGenerator<object, undefined> {
  let [texts, inText, finished] = [0, false, false]
  const endOfText = () => (inText ? [{ type: "text-end", id: `text-${texts++}` }] : [])
  yield { type: "start", messageId: run.answer }
  yield { type: "start-step" } // of a message that it continues, the results of tools belong to the step before
  try {
    for await (const item of run) {
      if (typeof item === "string") {
        if (!inText) yield { type: "text-start", id: `text-${texts}` }
        inText = true
        yield { type: "text-delta", id: `text-${texts}`, delta: item }
        continue
      }
      const { type, toolCallId: id, toolName, input } = item ?? {}
      if (!CHUNKS.has(type) && !/^data-/.test(type)) throw new TypeError(`a text, or a chunk of the AI SDK, was expected; got '${type ?? item}'`)
      yield* endOfText()
      inText = false
      finished ||= type === "finish"
      if (type === "tool-input-available") run.called(id, toolName, () => input)
      else if (/^tool-output-/.test(type)) run.answered(id)
      yield item
    }
    yield* endOfText()
    if (!finished) yield { type: "finish" }
  } catch (error: any) {
    if (signal?.aborted) throw signal.reason // as `fetch` does
    yield* endOfText()
    yield error.code === "wsrpc.stopped" ? { type: "abort" } : { type: "error", errorText: error.message }
  }
}
