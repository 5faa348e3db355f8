// Chats of the AI SDK itself, with examples/ai_chat/aisdk.js as their transport. Obeys a command a line.
import { webcrypto } from "node:crypto"
import { createInterface } from "node:readline"
import { AbstractChat } from "ai"
import { RunTransport } from "./aisdk.js"

globalThis.crypto ??= webcrypto // Node 18
const [url, id] = process.argv.slice(2)
const keys = {}
const transport = new RunTransport({ api: `${url}/http`, headers: { cookie: "user=node" }, keys })

/** What useChat is in a page that has no framework. */
class Chat extends AbstractChat {
  constructor() {
    const state = {
      status: "ready",
      error: undefined,
      messages: [],
      pushMessage: (message) => void state.messages.push(message),
      popMessage: () => void state.messages.pop(),
      replaceMessage: (index, message) => void (state.messages[index] = message),
      snapshot: structuredClone,
    }
    super({ id, transport, state })
  }
}

let chat = new Chat()
const commands = {
  send: (text) => void chat.sendMessage({ text }),
  resume: () => chat.resumeStream(),
  regenerate: () => chat.regenerate(),
  stop: () => transport.stop(id).then((response) => response.status),
  reload: () => void (chat = new Chat()),
  forget: () => void delete keys[id],
}
/** Resolves with what the chat shows once its answer has these words, or once it no longer answers. */
async function shown(words) {
  const texts = () => chat.messages.map(({ role, parts }) => [role, parts.map(({ text }) => text ?? "").join("")])
  const answers = () => ["submitted", "streaming"].includes(chat.status)
  while (words ? !texts().at(-1)?.[1].includes(words) : answers()) await new Promise((done) => setTimeout(done, 10))
  return { status: chat.status, texts: texts(), ids: chat.messages.map(({ id }) => id) }
}

for await (const line of createInterface({ input: process.stdin })) {
  const [name, ...args] = JSON.parse(line)
  console.log(JSON.stringify((await (commands[name] ?? shown)(...args)) ?? null))
}
