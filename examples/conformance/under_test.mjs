// A peer that the conformance kit can test: ws-wrapper 4, in JavaScript.
//
//   node under_test.mjs [PORT]     serves
//   node under_test.mjs URL        dials, again and again, until nothing listens there

import { once } from "node:events"

import { WebSocket, WebSocketServer } from "ws"
import WebSocketWrapper, { iterableHandler } from "ws-wrapper"

function register(channel) {
  channel.on("echo", (value) => value)
  channel.on("fail", (value) => {
    throw typeof value === "string" ? new Error(value) : value
  })
  channel.on("emit", (event, args) => void channel.emit(event, ...args))
  channel.on("call", async function (event, args) {
    return [await channel.signal(this.signal).request(event, ...args)]
  })
  channel.on("channel", function () {
    const made = this.channel()
    register(made)
    return made
  })
  channel.on("request_channel", async (event, args) => register(await channel.request(event, ...args)))
  channel.on("abort", (message) => channel.abort(new Error(message)))
  const items = function* (items, error) {
    yield* items
    if (error) throw new Error(error)
  }
  channel.on("items", iterableHandler(items))
  channel.on("collect", async (event, args) => {
    const items = []
    for await (const item of await channel.request(event, ...args)) items.push(item)
    return items
  })
}

function speak(socket) {
  const wrapper = new WebSocketWrapper(socket)
  for (const channel of [wrapper, wrapper.of("room")]) register(channel)
}

const [target = "8080"] = process.argv.slice(2)
if (target.startsWith("ws")) {
  try {
    for (;;) {
      const socket = new WebSocket(target)
      speak(socket)
      await once(socket, "open")
      await once(socket, "close")
    }
  } catch {} // nothing listens
} else {
  const server = new WebSocketServer({ port: Number(target) })
  server.on("connection", speak)
  await once(server, "listening")
  console.log(`listening on ws://127.0.0.1:${server.address().port}`)
}
