// The JavaScript server under test: `node server.mjs [--tls]` prints its port when it is ready.
// With `--socketio` it is Socket.IO's, and with `--json` what one writes by hand over `ws`.
// The libraries are those that the interop tests install.
import { readFileSync } from "node:fs"
import { createServer as createHttpServer } from "node:http"
import { createServer } from "node:https"
import { createRequire } from "node:module"
import { pathToFileURL } from "node:url"

const require = createRequire(new URL("../../interop/js/package.json", import.meta.url))
const { WebSocketServer } = require("ws")
const { default: WebSocketWrapper } = await import(pathToFileURL(require.resolve("ws-wrapper")))

const TICK = "x".repeat(100)
const options = { perMessageDeflate: false, backlog: 4096 }
const peers = new Set()

const handlers = {
  add: (a, b) => a + b,
  echo: (text) => text,
  broadcast: () => {
    const message = JSON.stringify({ a: ["tick", TICK] })
    for (const one of peers) one.send(message)
    return 1
  },
}

function serveJson(socket) {
  peers.add(socket)
  socket.on("close", () => peers.delete(socket))
  socket.on("message", (data) => {
    const { i, a } = JSON.parse(data)
    socket.send(JSON.stringify({ i, d: handlers[a[0]](...a.slice(1)) }))
  })
}

function serve(socket) {
  if (process.argv.includes("--json")) return serveJson(socket)
  const peer = new WebSocketWrapper(socket)
  peers.add(peer)
  peer.on("disconnect", () => peers.delete(peer))
  peer.on("add", (a, b) => a + b)
  peer.on("add_async", async (a, b) => a + b)
  peer.on("echo", (text) => text)
  peer.on("broadcast", () => {
    for (const one of peers) one.emit("tick", TICK)
    return 1
  })
}

if (process.argv.includes("--socketio")) {
  const http = createHttpServer()
  new (require("socket.io").Server)(http, { perMessageDeflate: false }).on("connection", (socket) => {
    socket.on("add", (a, b, answer) => answer(a + b))
  })
  http.listen(0, "127.0.0.1", () => console.log(http.address().port))
} else if (process.argv.includes("--tls")) {
  const certificate = (name) => readFileSync(new URL(`../../tests/certificates/${name}`, import.meta.url))
  const https = createServer({ cert: certificate("server.pem"), key: certificate("server.key") })
  new WebSocketServer({ ...options, server: https }).on("connection", serve)
  https.listen({ host: "127.0.0.1", port: 0, backlog: 4096 }, () => console.log(https.address().port))
} else {
  const server = new WebSocketServer({ ...options, host: "127.0.0.1", port: 0 })
  server.on("connection", serve)
  server.on("listening", () => console.log(server.address().port))
}

// The end of stdin means that the program that started this has gone.
process.stdin.on("end", () => process.exit(0)).resume()
