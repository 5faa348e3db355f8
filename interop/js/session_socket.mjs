// Sockets of the class `SessionSocket`, played by lines of JSON on stdin. It tells on stdout what they do.
//
//   {"id": 1, "socket": "a", "do": [["open", "ws://..."], ["send", "x"], ["close", 4001, "bye"]]}   one after another
//   {"id": 1, "state": {...}}                                        what the socket says of itself after that
//   {"socket": "a", "event": "close", "detail": "1006"}              an event of a socket
//
// With --page, there are `document` and the events of a page, for ["wake", "online"] and so on.

import { createInterface } from "node:readline"
import WebSocket from "ws"

const tell = (line) => process.stdout.write(JSON.stringify(line) + "\n")
process.on("uncaughtException", (error) => tell({ uncaught: String(error) }))

if (process.argv.includes("--page")) {
  const page = new EventTarget()
  globalThis.addEventListener = page.addEventListener.bind(page)
  globalThis.dispatchEvent = page.dispatchEvent.bind(page)
  globalThis.document = Object.assign(new EventTarget(), {
    visibilityState: "visible",
    baseURI: "http://127.0.0.1/folder/",
  })
}
// Delays are in the middle of what they may be.
Math.random = () => 0.5
const { SessionSocket } = await import("../../wsrpc/browser/socket.js")

const sockets = new Map()

const steps = {
  open(name, url, options = {}) {
    const { protocols = [], token, fails, hangs, ...others } = options
    let target = token === undefined ? url : { url, token }
    let calls = 0
    if (fails !== undefined) target = () => (++calls > fails ? Promise.reject(new Error("no token")) : url)
    if (hangs) target = () => (++calls > 1 ? new Promise(() => {}) : url)
    const socket = new SessionSocket(target, protocols, { WebSocket, ...others })
    sockets.set(name, socket)
    for (const type of ["open", "message", "error", "close", "detached", "resumed"]) {
      socket.addEventListener(type, (event) => {
        const detail = type === "message" ? event.data : type === "close" ? `${event.code} ${event.reason}` : undefined
        tell({ socket: name, event: type, detail })
      })
    }
  },
  send: (name, data) => sockets.get(name).send(data),
  many(name, count, size) {
    for (let k = 0; k < count; k++) sockets.get(name).send("x".repeat(size))
  },
  close: (name, ...args) => sockets.get(name).close(...args),
  forget: (name) => sockets.delete(name),
  clock(_, seconds) {
    const before = Date.now
    Date.now = () => before() + 1000 * seconds
  },
  wake: (_, type) => dispatchEvent(new Event(type)),
  freeze: () => document.dispatchEvent(new Event("freeze")),
  thaw: () => document.dispatchEvent(new Event("resume")),
  see(_, visibilityState) {
    document.visibilityState = visibilityState
    document.dispatchEvent(new Event("visibilitychange"))
  },
  leave: (_, persisted) => dispatchEvent(Object.assign(new Event("pagehide"), { persisted })),
  gc: () => globalThis.gc(),
}

for await (const line of createInterface({ input: process.stdin })) {
  const { id, socket: name, do: doing } = JSON.parse(line)
  let error
  try {
    for (const [step, ...args] of doing) steps[step](name, ...args)
  } catch (caught) {
    error = `${caught.name}: ${caught.message}`
  }
  const socket = sockets.get(name)
  const state = socket && {
    readyState: socket.readyState,
    bufferedAmount: socket.bufferedAmount,
    protocol: socket.protocol,
    url: socket.url,
  }
  tell({ id, error, state, heap: process.memoryUsage().heapUsed })
}
// Stdin has ended: the process ends by itself if nothing is left.
