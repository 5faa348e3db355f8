// What a page can call, and what can be called on it. Prints each answer, by the event's name.
import { Client, type Channel, type Items, type Present } from "python-wsrpc"
import WebSocket from "ws"

import type { Api, Cup, Order } from "./api.js"

const client = new Client<Api>(process.argv[2]!, { WebSocket })
const show = (...values: unknown[]) => console.log(JSON.stringify(values))

const sum: number = await client.request("add", 1)
show("add", sum, await client.with({ timeout: 5000, retry: true }).request("add", 1, 2, 0.5, 0.25))
const nothing: null = await client.request("nothing")
show("nothing", nothing)

const first: Order = await client.request("order", { cups: [{ drink: "tea", size: "l" }, { drink: "milk" }] })
const size: "s" | "l" | undefined = first.cups[0]!.size // what has a default may be gone later
show("order", size, first.cups[1]!.size, first.follows)

for (const pet of await client.request("adopt", { type: "Dog", name: "Rex" })) {
  if (pet.type === "Cat") show("adopt", pet.lives?.toFixed())
  else show("adopt", pet.name.toUpperCase())
}
show("adopt", await client.request("adopt", null))
show("move", await client.request("move", { x: 1, y: 2 }, [0.5, 0.5]))
const [right, left]: [string, number] = await client.request("swap", [1, "one"])
show("swap", right, left)
show("search", await client.request("search", "abc", { depth: 1, follow: true }, 3))
const { at, took }: { at: string; took: string } = await client.request("times")
show("times", at, took)
const bytes: string = await client.request("reverse", btoa("abc"))
show("reverse", bytes)
show("levels", (await client.request("levels", 2))["2"])
const anything: unknown = await client.request("set-name", { any: "thing" })
show("set-name", anything)
client.emit("tick", 5)
show("tick", await client.request("tick", 1))

const files = client.of("files")
show("read", await files.with({}).request("read", "abc"))
await client.of("rooms").request("join", "lobby")
const users: readonly Present[] = client.room("lobby", { last: 0 }).present.get()
show("users", users.length)

const cups: Items<Cup> = client.stream("count", 2)
for await (const cup of cups) show("count", cup.drink, cup.size, cup.sugar ?? "none")
const trip = client.with({ key: "t" }).request("trip")
await client.with({ key: "t" }).stream("trip").send(true)
const went: boolean = await trip
show("trip", went)
const total: number = await client.upload("total", [1, 2], 100)
async function* numbers() {
  yield 3
  yield 4
}
show("total", total, await client.with({ progress: ({ items }) => items.toFixed() }).upload("total", numbers(), 0))

const exchange = await client.open("doubled")
const values: number[] = []
const read = new Promise<void>((resolve) => {
  exchange.on("next", async (item) => (item.done ? resolve() : values.push(item.value)))
})
exchange.on("stop", () => {})
exchange.emit("start")
const given: null = await exchange.request("next", { value: 4, done: false })
const ended: null = await exchange.request("next", { done: true })
await read
show("doubled", given, values, ended)

// Of this channel the server declares what travels.
const talk = await client.open("talk")
const upper: string = await talk.request("upper", "hi")
talk.close()
show("talk", upper, await talk.closed)
const other = await client.open("talk")
show("talk", await other.request("upper", "ho"))
other.on("anything", (text: string, number: number) => text.repeat(number))
other.close()

// What the server calls here
const heard: string[] = []
client.on("name", (full) => (full ? "Grace Hopper" : "Grace"))
client.on("cup", async (drink) => ({ drink }))
client.on("shown", (at, cup) => heard.push(at, cup.size ?? "s")) // of an event, nobody wants the result
client.on("count", function* (stop) {
  for (let number = 0; number < stop; number++) yield number
})
client.on("join", async function (between) {
  const words: string[] = []
  for await (const word of this.items<string>()) words.push(word)
  return words.join(between)
})
client.on("chat", async function (topic) {
  const channel = this.channel()
  channel.on("say", (text: string) => `${text}, about ${topic}`)
  await channel.closed
})
const bell = client.of("bell")
const stop = bell.on("rang", (at, times) => show("rang", at.length, times?.toFixed()))
bell.on("let_in", async (...names) => show("let_in", names.join()))
client.on("cup-served", (cup: Cup, warm, icon) => show("cup-served", cup.drink, warm, icon?.length))
client.on("news", (title) => show("news", title))
show("ask", await client.request("ask"), heard)
stop()
show("ring", await client.request("ring"))

// Of files nothing is declared, so that any name can be handled.
client.of("files").on("changed", (name: string) => name)

// Without types, and where any client will do
const untyped = new Client(process.argv[2]!, { WebSocket })
const three: string = await untyped.request("add", 1, 2)
untyped.on("whatever", function (text: string) {
  return this.signal.aborted ? text : undefined
})
for await (const cup of untyped.stream("count", 1)) show("untyped", three, cup.drink)
show("untyped", (await untyped.upload("total", [1], 2)).toFixed(), await untyped.of("files").request("read", "x"))
const channel: Channel = await untyped.open("talk")
channel.close()
const all: Client[] = [client, untyped]
const adder = (some: Client<{ requests: { add(a: number, b: number): number } }>) => some.request("add", 1, 2)
show("any", await adder(client), await adder(untyped))
for (const each of all) each.close()
