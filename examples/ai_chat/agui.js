// AG-UI's client (`npm install @ag-ui/client rxjs`) with wsrpc as its transport.
//
//   const agent = new WsrpcAgent(new Client(`/ws?conversation=${threadId}`), { threadId })
//   agent.addMessage({ id: crypto.randomUUID(), role: "user", content: "Good morning!" })
//   const { newMessages } = await agent.runAgent({ tools })
//
// The tools run where `client.of("tools").on(name, handler)` says.

import { AbstractAgent, EventType } from "@ag-ui/client"
import { catchError, from, of } from "rxjs"

export class WsrpcAgent extends AbstractAgent {
  constructor(client, config) {
    super(config)
    this.client = client
  }

  run(input) {
    this.events = this.client.with({ key: input.runId }).follow("generate", input)
    return from(this.events).pipe(
      catchError(({ message, code }) => of({ type: EventType.RUN_ERROR, message, code: code && String(code) })),
    )
  }

  abortRun() {
    this.events?.stop()
  }
}
