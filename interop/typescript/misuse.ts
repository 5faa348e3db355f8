// Each line that ends in a number is refused, with that one, and no other is.
import WebSocketWrapper from "ws-wrapper"

import type { Cup, CupInput, Events, Typed } from "./events.js"

declare const socket: any
const server = new WebSocketWrapper(socket) as Typed<WebSocketWrapper>

// Names
await server.request("ad", 1) // 2345
await server.request("read", "a.txt") // 2345
server.of("file") // 2345
await server.of("files").request("add", 1) // 2345
await server.of("rooms").request("joins", "lobby") // 2345

// Arguments
await server.request("add") // 2555
await server.request("add", "1") // 2345
await server.request("add", 1, null) // 2345
await server.request("add", 1, 2, "3") // 2345
await server.request("nothing", 1) // 2554
await server.request("nothing", {}) // 2554
await server.request("search", "a", null, "slow") // 2345
await server.request("search", "a", { follow: true }) // 2741
await server.request("search", "a", { depth: 1, folow: true }) // 2561
await server.request("swap", [1, 2]) // 2322
await server.request("swap", [1, "one", 2]) // 2345
await server.request("adopt", { type: "Cow" }) // 2322
await server.request("adopt", { name: "Rex" }) // 2345
await server.request("order", { cups: [{ size: "s" }] }) // 2741
await server.request("order", { cups: [], for_table: 1 }) // 2561
await server.request("levels", 3) // 2345
await server.of("files").request("read", 1) // 2345

// Results
const text: string = await server.request("add", 1) // 2322
const point = await server.request("echo_point", { x: 1 })
point.y.toFixed() // 18048
point.z // 2339
const pets = await server.request("adopt", null)
pets[0]!.lives // 2339
const anything = await server.request("set-name", "x")
anything.name // 18046
const sent: CupInput = { drink: "tea" }
const got: Cup = { size: "s" } // 2741

// Channels: only requests open them, and what goes over them has types, too
server.emit("add", "1") // 2345
server.emit("count", 3) // 2345
server.emit("total", 0) // 2345
server.emit("talk") // 2345
for await (const cup of await server.request("count", 3)) cup.toFixed() // 2339
for await (const part of await server.request("add", 1)) part // 2504
const upload = await server.request("total", 0)
await upload.request("next", { value: "1", done: false }) // 2769
const result: string = await upload.request("next", { done: true }) // 2322
const cups = await server.request("count", 3)
cups.on("next", (item: { value: number; done: boolean }) => item) // 2345
const talk = await server.request("talk")
await talk.request("upper", 1) // 2345
await talk.request("lower", "a") // 2345

// What the server emits
server.on("new", () => {}) // 2345
server.once("rang", () => {}) // 2345
server.off("new", () => {}) // 2345
server.on("news", (title: number) => title) // 2345
server.on("news", (title: string, more: string) => more) // 2345
server.on("cup-served", (cup) => cup.dring) // 2551
server.on("cup-served", (cup, warm: boolean) => warm) // 2345
server.of("bell").on("news", () => {}) // 2345
server.of("bell").on("open", () => {}) // 2345
server.of("bell").on("let_in", (...names) => names.length.toUpperCase()) // 2339
server.of("bell").on("rang", (at, times) => times.toFixed()) // 18048
await server.of("bell").request("ring") // 2345
await server.request("news", "all") // 2345
server.of("files").on("changed", (name: string) => name)
server.on("close", (event, wasOpen: string) => wasOpen) // 2345

const add: Events["add"] = (a: string) => a // 2322

export { add, got, result, sent, text }
