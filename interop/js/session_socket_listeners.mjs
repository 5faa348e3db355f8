// Listeners that throw, over a connection that is an object of this program.

import { SessionSocket } from "../../wsrpc/browser/socket.js"

let connection
class Connection {
  readyState = 0
  bufferedAmount = 0
  protocol = ""
  send() {}
  close() {}
  constructor() {
    connection = this
  }
}

const uncaught = []
process.on("uncaughtException", (error) => uncaught.push(error.message))
const socket = new SessionSocket("ws://127.0.0.1/", [], { WebSocket: Connection })
connection.readyState = 1
connection.onopen()
const seen = []
let broken = true
socket.onmessage = () => {
  if (broken) throw new Error("of a handler")
}
socket.addEventListener("message", () => {
  if (broken) throw new Error("of a listener")
})
socket.addEventListener("message", (event) => seen.push(`last ${event.data}`))
connection.onmessage({ data: "1" })
broken = false
connection.onmessage({ data: "2" })
const { readyState } = socket
setImmediate(() => {
  process.stdout.write(JSON.stringify({ uncaught, seen, readyState }))
  process.exit() // the connection of this program never ends
})
