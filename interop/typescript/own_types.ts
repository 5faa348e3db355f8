// ws-wrapper 4 has types of its own, which take Events as they are. They know answers, and let everything else pass.
import WebSocketWrapper from "ws-wrapper"
import type { WebSocketLike } from "ws-wrapper"

import type { Channels, Emits, Events, Typed } from "./events.js"

declare const socket: WebSocketLike
const loose = new WebSocketWrapper<Events>(socket)
const sum: number = await loose.request("add", 1)
for await (const cup of await loose.request("count", 3)) cup.drink.toUpperCase()
loose.request("ad", "1").then((value: unknown) => value)

// Both: what is called is checked, and so are the handlers of what the server calls.
const server = new WebSocketWrapper<Events, Emits>(socket) as Typed<WebSocketWrapper<Events, Emits>>
server.on("news", (title) => title.toUpperCase())
new WebSocketWrapper<Events, Emits>(socket).on("cup-served", (cup) => cup.drink.toUpperCase())
server.disconnect()
const read: ReturnType<Channels["files"]["read"]> = await server.of("files").request("read", "a.txt")
const signal = AbortSignal.timeout(5)
const cancelled: null = await server.signal(signal).request("nothing")

export { cancelled, read, sum }
