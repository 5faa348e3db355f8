// Plays the calls in plays.json, and prints what each has got: its number, and the values or an error.
import { readFileSync } from "node:fs"

import { Client } from "python-wsrpc"
import WebSocket from "ws"

const client = new Client(process.argv[2], { WebSocket })
const plays = JSON.parse(readFileSync(new URL("plays.json", import.meta.url)))
const show = (...values) => console.log(JSON.stringify(values))

async function items(stream) {
  const found = []
  for await (const item of stream) found.push(item)
  return found
}

async function exchanged(channel, items) {
  const found = []
  const read = new Promise((resolve) => {
    channel.on("next", ({ done, value }) => (done ? resolve() : found.push(value)))
    channel.on("stop", () => {})
  })
  channel.emit("start")
  for (const value of items) await channel.request("next", { value, done: false })
  await channel.request("next", { done: true })
  await Promise.race([read, channel.closed])
  return found
}

async function got({ name, kind, args, items: sent, key }) {
  const channel = client.of(name)
  if (kind === "stream") return items(channel.with({ key }).stream("f", ...args))
  if (kind === "upload") return [await channel.upload("f", sent, ...args)]
  if (kind === "value") return [await channel.request("f", ...args)]
  const opened = await channel.open("f", ...args)
  if (kind === "exchange") return exchanged(opened, sent)
  opened.close()
  return []
}

for (const { name, handles, gives } of plays.filter((play) => play.handles)) {
  client.of(name).on("f", (...args) => {
    show(name, "heard", args)
    return gives
  })
}
const calls = plays.filter((play) => !("handles" in play))
while (calls.length) {
  // As many at once as may wait.
  const found = calls.splice(0, 50).map((play) =>
    got(play).then(
      (values) => show(play.name, "got", values),
      (error) => show(play.name, "failed", `${error}`),
    ),
  )
  await Promise.all(found)
}
await client.request("emit all")
client.close()
