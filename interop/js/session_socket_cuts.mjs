// ws-wrapper on a `SessionSocket`, under load both ways, while its connection is cut.
//
//   node session_socket_cuts.mjs LIBRARY ws://...
//
// It prints a line of JSON for each connection that has ended. After a line on stdin it begins nothing more, and prints
// what has happened when all requests are answered. After another line it prints how each of 20 requests ends that the
// server does not answer: the server is killed meanwhile.

import { createInterface } from "node:readline"
import WebSocket from "ws"
import { loadLibrary } from "./library.mjs"

const [library, url] = process.argv.slice(2)
const tell = (line) => process.stdout.write(JSON.stringify(line) + "\n")

// A page that is woken up dials at once, instead of after a while.
const page = new EventTarget()
globalThis.addEventListener = page.addEventListener.bind(page)
const { SessionSocket } = await import("../../wsrpc/browser/socket.js")

let detached = false
let cuts = 0
class Counted extends WebSocket {
  constructor(...args) {
    super(...args)
    this.on("close", () => tell({ cut: ++cuts }))
  }
}

const { Wrapper } = await loadLibrary(library)
const socket = new SessionSocket(url, [], { WebSocket: Counted })
const wrapper = new Wrapper(socket)
const resumed = { count: 0 }
const closes = []
socket.addEventListener("detached", () => (detached = true))
socket.addEventListener("resumed", () => {
  detached = false
  resumed.count++
})
socket.addEventListener("close", ({ code }) => closes.push(code))
const waking = setInterval(() => detached && page.dispatchEvent(new Event("pageshow")), 5)

const asked = new Map() // how often the server has asked for each number
const noted = []
wrapper.on("twice", (k) => {
  asked.set(k, (asked.get(k) ?? 0) + 1)
  return k % 3 ? 2 * k : new Promise((resolve) => setImmediate(resolve, 2 * k))
})
wrapper.on("note", (n) => void noted.push(n))

let goes = true
let next = 0
let notes = 0
let wrong = 0
async function work() {
  while (goes) {
    const k = next++
    wrapper.emit("note", notes++)
    const pad = k % 10 ? "" : "x".repeat(3000)
    if ((await wrapper.request("twice", k, pad)) !== 2 * k) wrong++
  }
}
const lines = createInterface({ input: process.stdin })[Symbol.asyncIterator]()
await new Promise((resolve) => socket.addEventListener("open", resolve))
const working = [work(), work(), work(), work()]
await lines.next()
goes = false
await Promise.all(working)
tell({
  requests: next,
  notes,
  wrong,
  asked: [...asked.values()].length,
  twice: [...asked.values()].filter((count) => count !== 1).length,
  noted: noted.length,
  inOrder: noted.every((n, index) => n === index),
  resumed: resumed.count,
  closes,
})

await lines.next()
const endings = []
socket.addEventListener("close", () => wrapper.abort())
const never = Array.from({ length: 20 }, () =>
  wrapper.request("never").then(
    () => endings.push("answered"),
    () => endings.push("aborted"),
  ),
)
tell({ asking: never.length })
await Promise.all(never)
const { readyState } = socket
tell({ endings, readyState, closes })
clearInterval(waking)
