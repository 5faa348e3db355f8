// What pages have that read chats over a connection of wsrpc. The last argument is the URL of the modules.
import WebSocket from "ws"

const [url, , event, modules] = process.argv.slice(3)
export const isConnected = url.startsWith("ws")
const { Client } = isConnected ? await import(`${modules}/client.js`) : {}

class LoggedIn extends WebSocket {
  constructor(url, protocols) {
    super(url, protocols, { headers: { authorization: "Bearer ada", cookie: "user=ada" } })
  }
}

let answer
/** What the tool was asked. */
const asked = []
export const commands = { asked: () => asked, answer: () => answer() }
const tools = {
  ask_user: ({ question }) => {
    asked.push(question)
    if (question === "Ask, and fail!") throw new Error("nobody is here")
    if (question === "Ask, and wait!") return new Promise((resolve) => (answer = () => resolve("later")))
    return { says: "yes" }
  },
}

/** Returns what reads the handler by a class of a module, or undefined without a connection. */
export async function reader(module, name, options) {
  if (!isConnected) return undefined
  const { [name]: Reader } = await import(`${modules}/${module}.js`)
  return new Reader(new Client(url, { WebSocket: LoggedIn }), event, { tools, ...options })
}
