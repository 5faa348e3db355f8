// An agent for AG-UI. The page brings AG-UI's client.

import { AbstractAgent, EventType, type AgentConfig, type BaseEvent, type RunAgentInput } from "@ag-ui/client"
import { Observable } from "rxjs"
import { Chats, type Run, type Tools } from "./chats.js"
import type { Client } from "./client.js"

export type { Tools }

/**
 * An agent that reads the runs of a handler, for which the server has `wsrpc_adapters.agui.agent`, over lost connections.
 * `connectAgent` joins the run that goes on, after a reload or in a second tab. So does `runAgent` with the stored messages.
 */
export class WsrpcAgent extends AbstractAgent {
  private chats: Chats

  /**
   * @param event the event of the handler: "event", or "channel:event" on a named channel
   */
  constructor(client: Client<any>, event: string, { tools, ...config }: AgentConfig & { tools?: Tools } = {}) {
    super(config)
    this.chats = new Chats(client, event, tools)
  }

  run(input: RunAgentInput): Observable<BaseEvent> {
    return observe(input, () => this.chats.ask(input.threadId, input, input.messages.at(-1) ?? null, null, false))
  }

  protected override connect(input: RunAgentInput): Observable<BaseEvent> {
    return observe(input, () => this.chats.join(input.threadId))
  }

  /** Only ends the reading, as some pages do when a component is unmounted. */
  override abortRun(): void {
    void this.detachActiveRun()
  }

  /** Stops the model, for all readers. */
  stop(): Promise<void> {
    return this.chats.stop(this.threadId)
  }

  override clone(): WsrpcAgent {
    return Object.assign(super.clone(), { chats: this.chats })
  }
}

function observe(input: RunAgentInput, find: () => Promise<Run | null>): Observable<BaseEvent> {
  return new Observable<BaseEvent>((subscriber) => {
    let run: Run | null
    const read = async () => {
      run = await find()
      if (!run || subscriber.closed) return
      for await (const event of events(input, run)) subscriber.next(event as BaseEvent)
    }
    read().then(
      () => subscriber.complete(),
      (error) => subscriber.error(error),
    )
    return () => run?.leave()
  })
}

async function* events({ threadId, runId }: RunAgentInput, run: Run): AsyncGenerator<object, undefined> {
  let [texts, inText, finished] = [0, false, false]
  const calls = new Map<string, { name: string; input: string }>()
  const message = () => ({ messageId: `${run.answer}-${texts}` })
  const endOfText = () => (inText ? [{ type: EventType.TEXT_MESSAGE_END, ...message() }] : [])
  yield { type: EventType.RUN_STARTED, threadId, runId }
  try {
    for await (const item of run) {
      if (typeof item === "string") {
        if (!inText) yield { type: EventType.TEXT_MESSAGE_START, ...message(), role: "assistant" }
        inText = true
        if (item) yield { type: EventType.TEXT_MESSAGE_CONTENT, ...message(), delta: item }
        continue
      }
      const { type, toolCallId: id, toolCallName: name, delta } = item ?? {}
      if (!(type in EventType)) throw new TypeError(`a text, or an event of AG-UI, was expected; got '${type ?? item}'`)
      yield* endOfText()
      if (inText) texts++
      inText = false
      finished ||= type === EventType.RUN_FINISHED || type === EventType.RUN_ERROR
      const call = calls.get(id)
      if (type === EventType.TOOL_CALL_START) calls.set(id, { name, input: "" })
      else if (type === EventType.TOOL_CALL_ARGS && call) call.input += delta
      else if (type === EventType.TOOL_CALL_END && call) run.called(id, call.name, () => JSON.parse(call.input || "{}"))
      else if (type === EventType.TOOL_CALL_RESULT) run.answered(id)
      yield item
    }
    yield* endOfText()
    if (!finished) yield { type: EventType.RUN_FINISHED, threadId, runId }
  } catch (error: any) {
    yield* endOfText()
    if (!finished) yield { type: EventType.RUN_ERROR, message: error.message, ...(error.code != null && { code: `${error.code}` }) }
  }
}
