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

  /** @param event the event of the handler: "event", or "channel:event" on a named channel */
  constructor(client: Client<any>, event: string, { tools, ...config }: AgentConfig & { tools?: Tools } = {}) {
    super(config)
    this.chats = new Chats(client, event, "agui", tools)
  }

  run(input: RunAgentInput): Observable<BaseEvent> {
    const asked = { threadId: input.threadId, runId: input.runId, messages: input.messages.slice(-1) }
    return observe(input, () => this.chats.find("ask", input.threadId, asked, input))
  }

  protected override connect(input: RunAgentInput): Observable<BaseEvent> {
    return observe(input, () => this.chats.find("join", input.threadId))
  }

  /** Only ends the reading, as some pages do when a component is unmounted. */
  override abortRun(): void {
    void this.detachActiveRun()
  }

  /** Stops the model, for all readers. */
  async stop(): Promise<void> {
    await this.chats.find("stop", this.threadId)
  }

  override clone(): WsrpcAgent {
    return Object.assign(super.clone(), { chats: this.chats })
  }
}

function observe(input: RunAgentInput, find: () => Promise<Run | null>): Observable<BaseEvent> {
  return new Observable<BaseEvent>((subscriber) => {
    const finding = find()
    const read = async () => {
      const run = await finding
      if (run) for await (const event of eventsOf(input, run)) subscriber.next(event as BaseEvent)
    }
    read().then(() => subscriber.complete(), (error) => subscriber.error(error))
    return () => void finding.then((run) => run?.leave(), () => {})
  })
}

function eventsOf({ threadId, runId }: RunAgentInput, run: Run): AsyncGenerator<object> {
  const calls = new Map<string, { name: string; input: string }>()
  const texts = {
    start: { type: EventType.TEXT_MESSAGE_START, role: "assistant" },
    delta: { type: EventType.TEXT_MESSAGE_CONTENT },
    end: { type: EventType.TEXT_MESSAGE_END },
  }
  return run.events({
    start: [{ type: EventType.RUN_STARTED, threadId, runId }],
    text: (kind, number, delta) => ({ ...texts[kind], messageId: `${run.found.answer}-${number}`, ...(delta && { delta }) }),
    look({ type, toolCallId: id, toolCallName: name, delta }) {
      if (!(type in EventType)) throw new TypeError(`a text or an event of AG-UI was expected; got '${type}'`)
      const call = calls.get(id)
      if (type === EventType.TOOL_CALL_START) calls.set(id, { name, input: "" })
      if (type === EventType.TOOL_CALL_ARGS && call) call.input += delta
      if (type === EventType.TOOL_CALL_END && call) run.called(id, call.name, () => JSON.parse(call.input || "{}"))
      if (type === EventType.TOOL_CALL_RESULT) run.answered(id)
      return type === EventType.RUN_FINISHED || type === EventType.RUN_ERROR
    },
    end: { type: EventType.RUN_FINISHED, threadId, runId },
    error: ({ code, message }) => ({ type: EventType.RUN_ERROR, message, ...(code != null && { code: `${code}` }) }),
  })
}
