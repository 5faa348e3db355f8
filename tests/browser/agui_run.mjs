// Runs with AG-UI's own client: with a tool, stopped, and one whose workers are killed. Prints what came of each.
import { randomUUID } from "node:crypto"
import { EventSchemas } from "@ag-ui/core/schemas"
import WebSocket from "ws"
import { WsrpcAgent } from "./agui.js"

const [library, url] = process.argv.slice(2)
const { Client } = await import(library)

class WithCookie extends WebSocket {
  constructor(target, protocols) {
    super(target, protocols, { headers: { cookie: "user=node" } })
  }
}

const threadId = randomUUID()
const client = new Client(`${url}/ws?conversation=${threadId}`, { WebSocket: WithCookie })
const handlers = { pick_color: () => "#ff8800" }
const tools = [{ name: "pick_color", description: "Let the user pick a color", parameters: { type: "object" } }]

for (const content of ["Which color?", "Stop!", "Good morning!"]) {
  const agent = new WsrpcAgent(client, { threadId, handlers })
  agent.addMessage({ id: randomUUID(), role: "user", content })
  const types = []
  const onEvent = ({ event }) => {
    EventSchemas.parse(event)
    types.push(event.type)
    if (content === "Stop!" && types.length === 5) agent.abortRun()
    if (content === "Good morning!" && types.length === 5) console.log('"kill all workers"')
  }
  const { newMessages: messages } = await agent.runAgent({ tools }, { onEvent })
  console.log(JSON.stringify({ types, messages }))
}
client.close()
