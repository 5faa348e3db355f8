// What takes the anonymous channels of ws-wrapper 4. Prints what comes, by the event's name.
import WebSocket from "ws"
import WebSocketWrapper from "ws-wrapper"

import type { Exchange, Items, Typed, Upload } from "./events.js"
import type { Cup } from "./events.js"

const socket = new WebSocket(process.argv[2]!)
const server = new WebSocketWrapper(socket) as Typed<WebSocketWrapper>

const cups: Items<Cup> = await server.request("count", 2)
for await (const cup of cups) console.log(JSON.stringify(["count", cup.drink, cup.size, cup.sugar ?? "none"]))
cups.close()

const listened = await server.request("count", 3)
const drinks: string[] = []
await new Promise<void>((resolve) => {
  listened.on("next", async (item) => (item.done ? resolve() : drinks.push(item.value.drink)))
  listened.emit("start")
})
console.log(JSON.stringify(["next", drinks]))
listened.close()

const upload: Upload<number, number> = await server.request("total", 100)
const nothing: null = await upload.request("next", { value: 1, done: false })
const total: number = await upload.request("next", { done: true })
console.log(JSON.stringify(["total", nothing, total]))
upload.close()

const exchange: Exchange<number, number> = await server.request("doubled")
const doubled: number[] = []
const reading = (async () => {
  for await (const number of exchange) doubled.push(number)
})()
await exchange.request("next", { value: 4, done: false })
const end: null = await exchange.request("next", { done: true })
await reading
console.log(JSON.stringify(["doubled", doubled, end]))
exchange.close()

const channel = await server.request("talk")
const upper: string = await channel.request("upper", "hi")
console.log(JSON.stringify(["talk", upper]))
channel.abort()
socket.close()
