// A page with the chat of the AI SDK and an agent of AG-UI, over one connection. `chat=` in its URL says which is shown.

import { useChat } from "@ai-sdk/react"
import { StrictMode, useEffect, useState } from "react"
import { createRoot } from "react-dom/client"
import { Client } from "python-wsrpc"
import { WsrpcAgent } from "python-wsrpc/agui"
import { WsrpcTransport } from "python-wsrpc/aisdk"

const client = new Client("/ws")
let [joins, joining] = [0, 0]
client.useOutgoing(async ({ kind }, next) => {
  if (kind !== "request") return next()
  joining++
  try {
    return await next()
  } finally {
    joining--
    joins++
  }
})
const hasJoined = () => joins > 0 && joining === 0

const asked = []
const tools = {
  ask_user: ({ question }) => {
    asked.push(question)
    return new Promise((resolve) => (globalThis.answer = resolve))
  },
}
const transport = new WsrpcTransport(client, "answer", { tools })
const agent = new WsrpcAgent(client, "answer", { tools, threadId: "agent" })

const Shown = ({ texts }) => <p>{texts.filter(Boolean).join("|")}</p>

function Chat() {
  const { messages, sendMessage } = useChat({ id: "chat", transport, resume: true })
  globalThis.say = (text) => void sendMessage({ text })
  return <Shown texts={messages.flatMap(({ parts }) => parts.map(({ type, text }) => (type.startsWith("tool") ? "?" : text)))} />
}

function Agent() {
  const [messages, show] = useState([])
  useEffect(() => {
    const { unsubscribe } = agent.subscribe({ onMessagesChanged: ({ messages }) => show([...messages]) })
    void agent.connectAgent()
    return () => {
      agent.abortRun()
      unsubscribe()
    }
  }, [])
  globalThis.say = (content) => {
    agent.addMessage({ id: crypto.randomUUID(), role: "user", content })
    void agent.runAgent()
  }
  return <Shown texts={messages.map(({ role, content, toolCalls }) => (toolCalls ? "?" : role !== "tool" && content))} />
}

const Page = location.search === "?agui" ? Agent : Chat
createRoot(document.body.appendChild(document.createElement("main"))).render(<StrictMode><Page /></StrictMode>)
Object.assign(globalThis, { asked, hasJoined })
