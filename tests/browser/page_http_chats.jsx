// A chat with `useChat` of the AI SDK, and one with an `HttpAgent` of AG-UI, both unmodified. The server stores what the
// user has said, and answers that are complete.

import { HttpAgent } from "@ag-ui/client"
import { useChat } from "@ai-sdk/react"
import { lastAssistantMessageIsCompleteWithToolCalls } from "ai"
import { StrictMode, useEffect, useRef, useState } from "react"
import { createRoot } from "react-dom/client"

const id = "chat 1"
const stored = async () => (await fetch("/stored")).json()
const store = (messages) => fetch("/stored", { method: "PUT", body: JSON.stringify(messages) })
const stopModel = (url) => fetch(`${url}/${encodeURIComponent(id)}/stream`, { method: "DELETE" })

/** What both pages show. `actions` are buttons. */
function Shown({ messages, status, error, actions }) {
  return (
    <>
      {messages.map(({ id, role, text }) => (
        <p key={id} id={id} className={role}>
          {text}
        </p>
      ))}
      <output>{status}</output>
      <i>{error?.message ?? error}</i>
      {Object.entries(actions).map(([name, act]) => (
        <button key={name} onClick={act}>
          {name}
        </button>
      ))}
    </>
  )
}

function AiSdk({ initial }) {
  const [storing, setStoring] = useState(false)
  const chat = useChat({
    id,
    messages: initial,
    resume: true,
    sendAutomaticallyWhen: lastAssistantMessageIsCompleteWithToolCalls,
    onToolCall: ({ toolCall: { toolName: tool, toolCallId } }) =>
      void chat.addToolOutput({ tool, toolCallId, output: "green" }),
    async onFinish({ messages, isError }) {
      if (isError) return
      setStoring(true)
      await store(messages)
      setStoring(false)
    },
  })
  const { messages, error, stop, regenerate } = chat
  const status = storing ? "storing" : chat.status
  const resume = async () => {
    chat.setMessages(await stored())
    void chat.resumeStream()
  }
  globalThis.say = async (text) => {
    const said = { id: crypto.randomUUID(), role: "user", parts: [{ type: "text", text }] }
    await store([...messages, said])
    void chat.sendMessage(said)
  }
  const actions = { stop, regenerate, resume, "stop model": () => stopModel("/api/chat") }
  const shown = messages.map(({ id, role, parts }) => ({ id, role, text: parts.map(({ text }) => text).join("") }))
  return <Shown {...{ messages: shown, status, error, actions }} />
}

const tools = [{ name: "color", description: "The user's color", parameters: { type: "object", properties: {} } }]

function AgUi({ initial }) {
  const [state, setState] = useState({ messages: [], status: "ready" })
  const begun = useRef(false)
  const show = (more) => setState((before) => ({ ...before, ...more }))
  const [agent] = useState(() => new HttpAgent({ url: "/api/agent", threadId: id }))

  async function run() {
    let error
    show({ status: "running", error })
    try {
      await agent.runAgent({ tools }, { onRunErrorEvent: ({ event }) => void (error = event.message) })
    } catch (reason) {
      error = reason.message
    }
    const calls = (!error && agent.messages.at(-1)?.toolCalls) || []
    for (const { id } of calls) agent.addMessage({ id: `of ${id}`, role: "tool", toolCallId: id, content: "green" })
    if (!error) await store(agent.messages)
    if (calls.length) await run()
    else show({ status: error ? "error" : "ready", error })
  }

  /** Shows what is stored, and joins the run that answers it. */
  async function resume(messages) {
    agent.setMessages(messages ?? (await stored()))
    show({ status: "ready", error: undefined })
    if (["user", "tool"].includes(agent.messages.at(-1)?.role)) void run()
  }

  useEffect(() => {
    const { unsubscribe } = agent.subscribe({ onMessagesChanged: ({ messages }) => show({ messages: [...messages] }) })
    return unsubscribe
  }, [agent])
  useEffect(() => {
    if (!begun.current) void resume(initial) // StrictMode mounts twice
    begun.current = true
  }, [])

  globalThis.say = async (content) => {
    agent.addMessage({ id: crypto.randomUUID(), role: "user", content })
    await store(agent.messages)
    void run()
  }
  const regenerate = () => {
    agent.setMessages(agent.messages.filter(({ role }) => role === "user"))
    void run()
  }
  const stop = () => agent.abortRun()
  const actions = { stop, regenerate, resume: () => resume(), "stop model": () => stopModel("/api/agent") }
  const shown = state.messages.map(({ id, role, content }) => ({ id, role, text: content }))
  return <Shown {...{ ...state, messages: shown, actions }} />
}

globalThis.open = async (name) => {
  const initial = await stored()
  const Chat = { AiSdk, AgUi }[name]
  createRoot(document.body.appendChild(document.createElement("main"))).render(
    <StrictMode>
      <Chat initial={initial} />
    </StrictMode>,
  )
}
