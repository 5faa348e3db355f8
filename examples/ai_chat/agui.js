// AG-UI's client (`npm install @ag-ui/client rxjs`) with wsrpc as its transport.
//
//   const agent = new WsrpcAgent(new Client(`/ws?conversation=${threadId}`), { threadId, handlers })
//   agent.addMessage({ id: crypto.randomUUID(), role: "user", content: "Good morning!" })
//   const { newMessages } = await agent.runAgent({ tools })
//
// `handlers` has a function for each tool.

import { AbstractAgent, EventType } from "@ag-ui/client"
import { catchError, from, of, tap } from "rxjs"

export class WsrpcAgent extends AbstractAgent {
  constructor(client, config) {
    super(config)
    this.client = client
    this.handlers = config.handlers
  }

  run(input) {
    this.events = this.client.with({ key: input.runId }).follow("generate", input)
    return from(this.events).pipe(
      tap((event) => this.useTool(event).catch(console.warn)),
      catchError(({ message, code }) => of({ type: EventType.RUN_ERROR, message, code: code && String(code) })),
    )
  }

  /** Sends the result of a tool to the run that has called it. */
  async useTool({ type, toolCallId, toolCallName, delta }) {
    if (type === EventType.TOOL_CALL_START) this.tool = toolCallName
    if (type !== EventType.TOOL_CALL_ARGS) return
    const use = async () => this.handlers[this.tool](JSON.parse(delta))
    const result = await use().catch((error) => `The tool has failed: ${error}`)
    await this.events.send({ text: `${result}`, of: toolCallId }, { id: toolCallId })
  }

  abortRun() {
    this.events?.stop()
  }
}
