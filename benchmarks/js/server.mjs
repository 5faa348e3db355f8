// The JavaScript server under test: `node server.mjs PORT` prints its port when it is ready.
// The libraries are those that the interop tests install.
import { createRequire } from "node:module"
import { pathToFileURL } from "node:url"

const require = createRequire(new URL("../../interop/js/package.json", import.meta.url))
const { WebSocketServer } = require("ws")
const { default: WebSocketWrapper } = await import(pathToFileURL(require.resolve("ws-wrapper")))

const server = new WebSocketServer({ host: "127.0.0.1", port: Number(process.argv[2]), perMessageDeflate: false })

server.on("connection", (socket) => {
  const peer = new WebSocketWrapper(socket)
  peer.on("add", (a, b) => a + b)
  peer.on("echo", (text) => text)
})
server.on("listening", () => console.log(server.address().port))

// The end of stdin means that whoever started this has gone.
process.stdin.on("end", () => process.exit(0)).resume()
