// The handlers of docs/how-to/conformance.md in a page's client, which dials a URL again and again until nothing
// listens there. A page cannot open or read an anonymous channel from within another.

import { WebSocket } from "ws"

import { Client } from "../../wsrpc/browser/client.js"

function register(channel) {
  channel.on("echo", (value) => value)
  channel.on("fail", (value) => {
    throw typeof value === "string" ? new Error(value) : value
  })
  channel.on("emit", (event, args) => void channel.emit(event, ...args))
  channel.on("call", async function (event, args) {
    return [await channel.with({ signal: this.signal }).request(event, ...args)]
  })
  channel.on("channel", async function () {
    const made = this.channel()
    register(made)
    await made.closed
  })
  channel.on("items", function* (items, error) {
    yield* items
    if (error) throw new Error(error)
  })
  channel.on("request_channel", async (event, args) => register(await channel.open(event, ...args)))
  channel.on("abort", (message) => channel.abort(new Error(message)))
  channel.on("collect", async (event, args) => {
    const items = []
    for await (const item of channel.stream(event, ...args)) items.push(item)
    return items
  })
}

/** Speaks on one connection. Returns false if there was none. */
async function speak(url) {
  const client = new Client(url, { WebSocket })
  register(client)
  register(client.of("room"))
  let connected = false
  await new Promise((resolve) => {
    client.status.subscribe((status) => {
      if (status === "open") connected = true
      else resolve() // it will dial again, after a drop or a failure
    })
  })
  client.close()
  return connected
}

while (await speak(process.argv[2]));
