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

/**
 * Lets `useChat` read the runs of a handler, for which the server has `wsrpc_adapters.aisdk.chat`: over lost connections,
 * and with `resume: true`, after a reload and in a second tab.
 */
export class WsrpcTransport {
  /** A run that is joined is read from its first word. */
  readonly resumeStreamIsReplay = true
  readonly #chats: Chats

  /** @param event the event of the handler: "event", or "channel:event" on a named channel */
  constructor(client: Client<any>, event: string, { tools }: { tools?: Tools } = {}) {
    this.#chats = new Chats(client, event, "aisdk", tools)
  }

  async sendMessages({ chatId, messages, trigger, messageId, body, abortSignal }: any): Promise<ReadableStream<any>> {
    const sent = { ...body, id: chatId, messages, trigger, messageId }
    const asked = { id: chatId, messages: messages.slice(-1), trigger }
    return stream((await this.#chats.find("ask", chatId, asked, sent, abortSignal))!, abortSignal)
  }

  async reconnectToStream({ chatId, abortSignal }: any): Promise<ReadableStream<any> | null> {
    const run = await this.#chats.find("join", chatId, undefined, undefined, abortSignal)
    return run && stream(run, abortSignal)
  }

  /** Stops the model, for all readers. The `stop` of a chat only ends its reading, as when its component is unmounted. */
  async stop(chatId: string): Promise<void> {
    await this.#chats.find("stop", chatId)
  }
}

function stream(run: Run, signal: AbortSignal | undefined): ReadableStream<any> {
  const chunks = run.events({
    // Of a message that it continues, the results of tools belong to the step before.
    start: [{ type: "start", messageId: run.found.answer }, ...run.found.before, { type: "start-step" }],
    text: (kind, number, delta) => ({ type: `text-${kind}`, id: `text-${number}`, ...(delta && { delta }) }),
    look({ type, toolCallId, toolName, input }) {
      if (!CHUNKS.has(type) && !/^data-/.test(type)) throw new TypeError(`a text or a chunk of the AI SDK was expected; got '${type}'`)
      if (type === "tool-input-available") run.called(toolCallId, toolName, () => input)
      if (/^tool-output-/.test(type)) run.answered(toolCallId)
      return type === "finish"
    },
    end: { type: "finish" },
    error({ code, message }) {
      if (signal?.aborted) throw signal.reason // as `fetch` does
      return code === "wsrpc.stopped" ? { type: "abort" } : { type: "error", errorText: message }
    },
  })
  return new ReadableStream({
    async pull(controller) {
      const { done, value } = await chunks.next()
      if (done) controller.close()
      else controller.enqueue(value)
    },
    cancel: () => run.leave(),
  })
}
