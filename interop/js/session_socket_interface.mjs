// Does the same with a `SessionSocket` and with the WebSocket of `ws`, and prints what it has seen of both, as JSON.
//
//   node session_socket_interface.mjs ws://...     a server that sends each message back

import WebSocket from "ws"
import { SessionSocket } from "../../wsrpc/browser/socket.js"

const url = process.argv[2]
const READY = ["CONNECTING", "OPEN", "CLOSING", "CLOSED"]
const bytes = (...values) => new Uint8Array(values)
const once = (socket, type) => new Promise((resolve) => socket.addEventListener(type, resolve, { once: true }))

async function shown(data) {
  if (typeof data === "string") return data
  const kind = data.constructor.name
  return `${kind} ${[...new Uint8Array(data instanceof Blob ? await data.arrayBuffer() : data)]}`
}

async function play(Class, make) {
  const seen = {}
  seen.constants = READY.map((name) => Class[name])
  const socket = make(url, ["chat", "other"])
  const events = []
  seen.begin = [socket.readyState, socket.protocol, socket.extensions, socket.bufferedAmount, socket.url]
  seen.handlers = [socket.onopen, socket.onmessage, socket.onerror, socket.onclose]
  try {
    socket.send("too early")
  } catch {
    seen.early = true
  }
  const note = (event) => events.push([event.type, event.target === socket])
  socket.onopen = note
  socket.addEventListener("open", note)
  socket.addEventListener("open", note) // once is enough
  socket.onclose = note
  await once(socket, "open")
  seen.open = [socket.readyState, socket.protocol]
  seen.constants.push(READY.map((name) => socket[name]))

  const arrived = []
  let waiting = () => {}
  socket.addEventListener("message", (event) => {
    arrived.push(event)
    waiting()
  })
  const until = async (count) => {
    while (arrived.length < count) await new Promise((resolve) => (waiting = resolve))
    return Promise.all(arrived.splice(0).map((event) => shown(event.data)))
  }

  socket.binaryType = "arraybuffer"
  const view = bytes(0, 1, 2, 3, 4)
  const buffer = bytes(9, 8).buffer
  socket.send("é\u{1f600}")
  socket.send("")
  socket.send(view.subarray(1, 3))
  socket.send(new DataView(view.buffer, 2, 2))
  socket.send(new Uint16Array([513]))
  socket.send(buffer)
  socket.send(new Uint8Array(0))
  socket.send(new Blob([bytes(7), "blob"]))
  socket.send("after the blob")
  socket.send(42)
  seen.sent = await until(10)
  socket.binaryType = "blob"
  const reused = bytes(1, 2)
  socket.send(reused)
  socket.binaryType = "nothing of the kind"
  seen.blob = [await until(1), socket.binaryType]

  let calls = 0
  const counted = () => calls++
  socket.addEventListener("message", counted)
  socket.addEventListener("message", counted, { once: true })
  socket.removeEventListener("message", counted)
  socket.addEventListener("message", counted, { once: true })
  socket.addEventListener("message", { handleEvent: counted })
  socket.send("a")
  socket.send("b")
  seen.listeners = [await until(2), calls]

  seen.stillOpen = socket.readyState
  const closed = once(socket, "close")
  socket.close(4001, "bye")
  seen.closing = socket.readyState
  socket.close(4002)
  socket.send("too late")
  const event = await closed
  seen.closed = [socket.readyState, event.code, event.reason, event.wasClean]
  socket.close()
  socket.send("much too late")
  seen.events = events

  const failing = make("ws://127.0.0.1:1/")
  const order = []
  failing.onerror = failing.onclose = (event) => order.push(event.type)
  await once(failing, "close")
  seen.failed = [order, failing.readyState]

  const given = make(url)
  given.onerror = given.onclose = (event) => order.push([event.type, event.code])
  given.close()
  await once(given, "close")
  seen.givenUp = order

  seen.wrong = []
  for (const args of [["not a url"], [url, ["a", "a"]], [url, ["with space"]], ["ftp://x/"]]) {
    try {
      make(...args)
      seen.wrong.push("taken")
    } catch {
      seen.wrong.push("refused")
    }
  }
  return seen
}

/** Makes sockets of a class. */
const make = (Class, ...more) => (target, protocols = []) => new Class(target, protocols, ...more)
process.stdout.write(
  JSON.stringify({
    WebSocket: await play(WebSocket, make(WebSocket)),
    SessionSocket: await play(SessionSocket, make(SessionSocket, { WebSocket })),
  }),
)
