// Each line that ends in a number is refused, with that one, and no other is.
import { Client, type Channel } from "python-wsrpc"
import { upload } from "python-wsrpc/upload"

import type { Api, Cup } from "./api.js"

const client = new Client<Api>("/ws")
declare const file: Blob

// Names
client.request("ad", 1) // 2345
client.request("read", "a.txt") // 2345
client.of("file") // 2345
client.of("files").request("add", 1) // 2345
client.of("files").of("rooms") // 2345
client.of("bell").request("rang") // 2345
upload(client, "file", file) // 2345
client.request("count", 3) // 2345
client.request("total", [], 3) // 2345
client.request("talk") // 2345
client.request("name") // 2345
client.stream("add", 1) // 2345
client.upload("count", [], 3) // 2345
client.open("count") // 2345
client.with({}).of("rooms").with({}).request("joins", "lobby") // 2345

// Arguments
client.request("add") // 2555
client.request("add", "1") // 2345
client.request("add", 1, null) // 2345
client.request("add", 1, 2, "3") // 2345
client.request("nothing", 1) // 2554
client.request("search", "a", null, "slow") // 2345
client.request("search", "a", { follow: true }) // 2741
client.request("search", "a", { depth: 1, folow: true }) // 2561
client.request("search", "a", null, "fast", 1) // 2554
client.request("swap", [1, 2]) // 2322
client.request("adopt", { type: "Cow" }) // 2322
client.request("order", { cups: [{ size: "s" }] }) // 2741
client.request("order", { cups: [], for_table: 1 }) // 2561
client.request("reverse", new Uint8Array(1)) // 2345
client.of("files").request("read", 1) // 2345
client.emit("add", "1") // 2345
client.emit("count", 3) // 2345
client.stream("count", "3") // 2345
client.stream("count") // 2554
client.upload("total", ["1"], 0) // 2345
client.upload("total", 5, 0) // 2345
client.upload("total", [1]) // 2554
client.upload("total", [1], 0, 0) // 2554
client.upload("store", file.stream(), "name") // 2345
upload(client, "files", "a.txt") // 2345
upload(client, "files", file, { progress: (bytes: string) => bytes }) // 2322
client.open("talk", 1) // 2554
client.with({ timeout: "1" }) // 2322

// Results
export const id: number = await upload(client, "files", file, { signal: AbortSignal.timeout(5) }) // 2322
export const text: string = await client.request("add", 1) // 2322
const point = await client.request("echo_point", { x: 1 })
point.y.toFixed() // 18048
point.z // 2339
;(await client.request("adopt", null))[0]!.lives // 2339
;(await client.request("set-name", "x")).name // 2571
;(await client.request("nothing")).name // 2531
export const at: Date = (await client.request("times")).at // 2322
for await (const cup of client.stream("count", 3)) cup.toFixed() // 2339
for (const cup of client.stream("count", 3)) cup // 2488
client.stream("trip").send("yes") // 2345
for await (const cup of client.stream("trip")) cup.size // 2339
export const total: string = await client.upload("total", [1], 0) // 2322
export const cup: Cup = { size: "s" } // 2741

// Channels
const exchange = await client.open("doubled")
exchange.request("next", { value: "1", done: false }) // 2322
exchange.request("nxt", { done: true }) // 2345
exchange.emit("pul", 1) // 2345
exchange.on("stopp", () => {}) // 2345
const talk = await client.open("talk")
talk.request("lower", "hi") // 2345
talk.request("upper", 1) // 2345
talk.on("anything", () => {})

// What the server calls
client.on("nam", () => "Grace") // 2345
client.on("rang", () => {}) // 2345
client.of("bell").on("ring", () => {}) // 2345
client.on("name", () => 5) // 2322
client.on("name", async () => 5) // 2322
client.on("name", () => {}) // 2345
client.on("name", (full: string) => full) // 2345
client.on("name", (full) => full.valueOf() ? "Grace" : "") // 18048
client.on("name", (full, more) => "Grace") // 2345
client.on("cup", (drink) => ({ drank: drink })) // 2322
client.on("cup", () => null)
client.on("shown", (at: Date) => {}) // 2345
client.on("shown", (at, cup) => cup.dring) // 2551
client.on("count", () => [1]) // 2322
client.on("count", async function* () { yield "1" }) // 2345
client.on("join", async () => 1) // 2322
client.on("chat", function () { this.chanel() }) // 2551
client.of("bell").on("let_in", (...names: number[]) => {}) // 2345
client.of("files").on("changed", (name: string) => name)

// What a client is made with
new Client<Api>() // 2554
new Client<Api>(["/ws", "/other"]) // 2345
new Client<Api>({ url: "/ws", tokn: "t" }) // 2353
new Client<Api>("/ws", { requestTimeot: 1000 }) // 2561
client.with({ retries: true }) // 2353
client.with({ metadata: { tenant: 1 } }) // 2322
client.with({ key: 17 }) // 2322
talk.with({ key: "k" }) // 2353
client.stream("count", 3).position.length // 2532
client.useOutgoing(({ metadata }, next) => { metadata.tenant = 1; return next() }) // 2322
client.useOutgoing(({ metdata }, next) => next()) // 2339
