// Socket.IO under cuts: `node cuts.mjs server` prints its port, `node cuts.mjs client` waits for commands.
// Commands are lines of JSON on stdin, answers are lines of JSON on stdout.
// Each end sends numbered events to the other while the flow is on, and says what it has received.
// With `advised` after that, both do what Socket.IO's documentation advises against losses.
import { createServer } from "node:http"
import { createRequire } from "node:module"
import { createInterface } from "node:readline"

const require = createRequire(new URL("../../interop/js/package.json", import.meta.url))
const EVERY_MS = 2
const advised = process.argv[3] === "advised"

const say = (message) => console.log(JSON.stringify(message))
const commands = (run) => {
  const lines = createInterface({ input: process.stdin })
  lines.on("line", (line) => run(JSON.parse(line)))
  // The end of stdin means that the process which started this one is over.
  lines.on("close", () => process.exit(0))
}

function server() {
  const http = createServer()
  const io = new (require("socket.io").Server)(http, {
    connectionStateRecovery: {},
  })
  let name = ""
  let sent = 0
  let got = []
  let timer
  io.on("connection", (socket) => {
    const mine = socket.handshake.auth.name
    // Also when the socket has recovered: after a half-open cut Socket.IO 4.8 restores it without its rooms.
    socket.join(mine)
    // "For the recovery to succeed, the server must send at least one event" (its page on connection state recovery).
    if (advised && !socket.recovered) socket.emit("hello")
    socket.on("up", (number, acknowledge) => {
      if (mine === name) got.push(number)
      acknowledge?.() // a client with `retries` waits for it
    })
  })
  commands(({ command, ...options }) => {
    clearInterval(timer)
    if (command === "fresh") {
      name = options.name
      sent = 0
      got = []
    } else if (command === "flow") {
      // To a room, because a client that does not recover has another socket afterwards.
      timer = setInterval(() => io.to(name).emit("down", sent++), EVERY_MS)
    }
    say({ sent, got: command === "result" ? got : [] })
  })
  http.listen(0, "127.0.0.1", () => console.log(http.address().port))
}

function client() {
  const { io } = require("socket.io-client")
  let socket
  let url = ""
  let sent = 0
  let got = []
  let timer
  commands(({ command, ...options }) => {
    if (command !== "abandon") clearInterval(timer)
    if (command === "fresh") {
      socket?.close()
      sent = 0
      got = []
      url = options.url
      socket = io(url, {
        auth: { name: options.name },
        forceNew: true,
        transports: ["websocket"],
        reconnectionDelay: 1,
        reconnectionDelayMax: 10,
        randomizationFactor: 0,
        // At least once (its page on delivery guarantees). Without these options an event is sent at most once.
        ...(advised ? { retries: 3, ackTimeout: 10_000 } : {}),
      })
      socket.on("connect", () => say({ connected: true, recovered: socket.recovered }))
      socket.on("down", (number) => got.push(number))
    } else if (command === "flow") {
      timer = setInterval(() => socket.emit("up", sent++), EVERY_MS)
      say({ sent, got: [] })
    } else if (command === "abandon") {
      socket.io.uri = options.url
      socket.io.engine.transport.ws.terminate() // as when the machine has moved to another network
    } else {
      say({ sent, got: command === "result" ? got : [] })
    }
  })
  say("ready")
}

if (process.argv[2] === "server") server()
else client()
