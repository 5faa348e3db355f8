// useChat of @ai-sdk/react with `resume: true`, without a page: with its default transport, or over a connection of
// wsrpc if the URL is that of a WebSocket. Obeys a command a line.
import { createInterface } from "node:readline"
import { lastAssistantMessageIsCompleteWithToolCalls } from "ai"
import React from "react"
import TestRenderer from "react-test-renderer"
import { commands as ofTools, reader } from "./chat_page.mjs"

const [library, api, id] = process.argv.slice(2)
const { useChat } = await import(library)
console.error = console.warn = () => {} // React says that this renderer is old
const fetched = globalThis.fetch
let resumed // gets the status of the GET by which a page that was just loaded resumes
// The page is at the server, with a cookie; that is all that a browser adds.
globalThis.fetch = async (url, options = {}) => {
  const headers = { ...options.headers, authorization: "Bearer ada" }
  const response = await fetched(new URL(url, api), { ...options, headers })
  if ((options.method ?? "GET") === "GET") resumed?.(response.status)
  return response
}

const transport = await reader("aisdk", "WsrpcTransport")
const reconnect = transport?.reconnectToStream.bind(transport)
if (transport) {
  transport.reconnectToStream = async (options) => {
    const stream = await reconnect(options)
    resumed(stream ? 200 : 204)
    return stream
  }
}

let chat
let root
function Page({ messages }) {
  chat = useChat({
    id,
    messages,
    resume: true,
    ...(transport && { transport }),
    onToolCall: ({ toolCall: { toolName: tool, toolCallId, input } }) => {
      if (input.question === "Ask in a message!") void chat.addToolOutput({ tool, toolCallId, output: "no" })
    },
    sendAutomaticallyWhen: lastAssistantMessageIsCompleteWithToolCalls,
  })
  return null
}
async function load(messages) {
  const status = new Promise((resolve) => (resumed = resolve))
  root = TestRenderer.create(React.createElement(Page, { messages }))
  return status
}
await load([])

let asking // what the page has sent, until its answer has ended
const commands = {
  send: (text) => void (asking = chat.sendMessage({ text })),
  regenerate: () => void (asking = chat.regenerate()),
  stop: () => chat.stop(),
  reload: (count) => {
    const stored = chat.messages.slice(0, count) // what the server has stored
    asking = undefined
    root.unmount()
    return load(stored)
  },
  stopModel: async () => {
    if (transport) return transport.stop(id)
    return (await fetch(`/api/chat/${encodeURIComponent(id)}/stream`, { method: "DELETE" })).status
  },
  ...ofTools,
  connect: () => {}, // it has, by `resume`
  until: async (words) => {
    while (!JSON.stringify(chat.messages).includes(words)) await new Promise((done) => setTimeout(done, 10))
  },
}
/** Resolves with what the page shows once its last message has these words, or once nothing goes on. */
async function shown(words) {
  const texts = () => chat.messages.map(({ role, parts }) => [role, parts.map(({ text }) => text ?? "").join("")])
  const answers = () => ["submitted", "streaming"].includes(chat.status)
  if (!words) await asking
  while (words ? !texts().at(-1)?.[1].includes(words) : answers()) await new Promise((done) => setTimeout(done, 10))
  return { status: chat.status, texts: texts(), ids: chat.messages.map(({ id }) => id), error: chat.error?.message }
}

for await (const line of createInterface({ input: process.stdin })) {
  const [name, ...args] = JSON.parse(line)
  console.log(JSON.stringify((await (commands[name] ?? shown)(...args)) ?? null))
}
process.exit()
