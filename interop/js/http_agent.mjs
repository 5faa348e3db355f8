// HttpAgent of @ag-ui/client, or WsrpcAgent if the URL is that of a WebSocket, without a page. Obeys a command a line.
import { createInterface } from "node:readline"
import { commands as ofTools, isConnected, reader } from "./chat_page.mjs"

const [library, url, threadId] = process.argv.slice(2)
const { HttpAgent } = await import(library)
console.warn = () => {}
const stream = `${url}/api/agent/${encodeURIComponent(threadId)}/stream`
const headers = { authorization: "Bearer ada" }

let agent, joined, running, types, error
const load = async (initialMessages) => {
  const options = { threadId, initialMessages }
  agent = (await reader("agui", "WsrpcAgent", options)) ?? new HttpAgent({ url: `${url}/api/agent`, headers, ...options })
  agent = agent.clone() // as CopilotKit does
}
await load([])

function run() {
  types = []
  error = undefined
  const seen = types
  const onEvent = ({ event }) => void seen.push(event.type)
  const onRunErrorEvent = ({ event }) => void (error = event.message)
  running = agent.runAgent({}, { onEvent, onRunErrorEvent }).catch((reason) => void (error ??= `${reason}`))
}
const commands = {
  send: (content) => {
    agent.addMessage({ id: crypto.randomUUID(), role: "user", content })
    run()
  },
  stop: () => agent.abortRun(),
  // A page that was loaded asks again for the answer to the last message that the server has stored.
  reload: async (count) => {
    await load(agent.messages.slice(0, count))
    run()
  },
  stopModel: async () => (isConnected ? agent.stop() : (await fetch(stream, { method: "DELETE", headers })).status),
  ...ofTools,
  connect: () => {
    running = agent.connectAgent()
  },
  until: async (words) => {
    while (!JSON.stringify(agent.messages).includes(words)) await new Promise((done) => setTimeout(done, 10))
  },
  join: async () => (joined = await fetch(stream, { headers })).status,
  rest: () => joined.text(),
}
/** Resolves with the messages once the last one has these words, or once the run has ended. */
async function shown(words) {
  if (!words) await running
  while (words && !agent.messages.at(-1)?.content?.includes(words)) await new Promise((done) => setTimeout(done, 10))
  return { texts: agent.messages.map(({ role, content }) => [role, content]), types, error }
}

for await (const line of createInterface({ input: process.stdin })) {
  const [name, ...args] = JSON.parse(line)
  console.log(JSON.stringify((await (commands[name] ?? shown)(...args)) ?? null))
}
