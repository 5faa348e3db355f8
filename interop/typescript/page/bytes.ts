// Bytes in MessagePack. Prints what comes.
import { Client } from "python-wsrpc"
import { msgpack } from "python-wsrpc/msgpack"
import WebSocket from "ws"

import type { Api } from "./api.js"

const client = new Client<Api>(process.argv[2]!, { WebSocket, codec: msgpack })
const show = (...values: unknown[]) => console.log(JSON.stringify(values))

const bytes: Uint8Array = await client.request("reverse", new Uint8Array([1, 2]))
show("reverse", [...bytes])
for await (const part of client.stream("parts", bytes)) show("parts", part.length, part[0])
show("store", await client.upload("store", new Blob(["ab", "c"]).stream(), "name"))
show("times", (await client.request("times")).at)
client.on("cup-served", (cup, warm, icon) => show("cup-served", icon?.byteLength))
client.on("news", () => {})
client.of("bell").on("rang", () => {})
client.of("bell").on("let_in", () => {})
await client.request("ring")
client.close()
