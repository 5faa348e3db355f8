// Each kind of call between a page and its server. Returns what the page has seen.

import { Aborted, Client, RemoteError } from "/wsrpc/client.js"
import { msgpack } from "/wsrpc/msgpack.js"

async function collect(items) {
  const all = []
  for await (const item of items) all.push(item)
  return all
}

/** What a call is rejected with. */
const failure = (call) =>
  call.then(
    () => "nothing",
    (error) => error,
  )

export async function mainPath(codec) {
  const client = new Client("/ws", codec === "msgpack" ? { codec: msgpack } : {})
  const states = [client.status.get()]
  client.status.subscribe((state) => state !== states.at(-1) && states.push(state))
  let left = () => {}
  const notes = []
  client.on("left", () => left())
  client.on("note", (text) => void notes.push(text))
  client.on("name", () => "Grace")
  client.on("letters", function* (text) {
    yield* text
  })
  client.on("sum", async function () {
    let sum = 0
    for await (const number of this.items()) sum += number
    return sum
  })
  client.on("shout", async function () {
    const channel = this.channel()
    channel.on("line", (line) => channel.emit("line", line.toUpperCase()))
    await channel.closed
  })

  const seen = {}
  seen.request = await client.request("add", 1, 2)
  seen.named = await client.of("math").request("add", 3, 4)
  seen.values = await client.request("echo", ["ä€😀", null, true, 1.5, { a: [] }])

  const error = await failure(client.request("fail"))
  seen.error = [error instanceof RemoteError, error.message, error.code, error.data, error.outcome]

  const controller = new AbortController()
  const cancelled = new Promise((resolve) => (left = resolve))
  const hanging = failure(client.with({ signal: controller.signal }).request("hang"))
  await client.request("add", 0, 0) // it hangs already
  controller.abort()
  seen.aborted = (await hanging) instanceof Aborted
  await cancelled

  seen.stream = (await collect(client.stream("count", 1000))).length
  const stopped = new Promise((resolve) => (left = resolve))
  seen.loop = []
  for await (const tick of client.stream("ticks")) {
    seen.loop.push(tick)
    if (tick === 2) break
  }
  await stopped

  const progress = []
  const numbers = Array.from({ length: 1000 }, (_, index) => index)
  seen.upload = await client.with({ progress: ({ items }) => progress.push(items) }).upload("total", numbers, 500)
  seen.progress = [progress.length, progress.at(-1)]

  const piece = codec === "msgpack" ? new Uint8Array(65_536) : "x".repeat(65_536)
  seen.large = await client.upload("size", Array(80).fill(piece))

  const said = new Promise((resolve) => client.on("said", resolve))
  const room = client.room("lobby")
  await client.request("say", "to all")
  seen.room = [await said, room.error === undefined]
  room.leave()

  const channel = await client.open("shout")
  const lines = []
  const all = new Promise((resolve) => channel.on("line", (line) => lines.push(line) === 3 && resolve()))
  channel.on("name", () => "Ada")
  channel.emit("line", "hello")
  channel.emit("line", "name")
  await all
  channel.close()
  seen.conversation = lines

  seen.called = await client.request("call me")
  seen.notes = notes

  const bytes = Uint8Array.from({ length: 1000 }, (_, index) => index)
  const echo = await client.request("echo", bytes).catch((error) => error.name)
  seen.bytes = codec === "msgpack" ? echo.length === 1000 && echo.every((byte, index) => byte === bytes[index]) : echo

  seen.dropped = 0 // the connection is reset in the middle of a stream, which goes on
  for await (const number of client.stream("count", 3000)) {
    if (number !== seen.dropped++) seen.wrong = number
    if (number === 1500) client.emit("drop")
  }
  seen.after = await client.request("add", 5, 6)
  seen.transport = client.transport
  client.close()
  seen.states = states
  return seen
}
