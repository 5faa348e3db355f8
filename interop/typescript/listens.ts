// What the server emits, as it is declared. Prints what comes, by the event's name.
import WebSocket from "ws"
import WebSocketWrapper from "ws-wrapper"

import type { ChannelEmits, Cup, Emits, Typed } from "./events.js"

const socket = new WebSocket(process.argv[2]!)
const server = new WebSocketWrapper(socket) as Typed<WebSocketWrapper>
const bell = server.of("bell")

const served: Emits["cup-served"] = (cup: Cup, warm, icon) =>
  console.log(JSON.stringify(["cup-served", cup, warm, icon?.length]))
server.on("cup-served", served).on("open", () => console.log(JSON.stringify(["open"])))
bell.on("rang", (at, times) => console.log(JSON.stringify(["rang", at.length, times?.toFixed()])))
const letIn: ChannelEmits["bell"]["let_in"] = async (...names) => console.log(JSON.stringify(["let_in", names.join()]))
bell.on("let_in", letIn)
const heard = new Promise<string>((resolve) => server.on("news", (title) => resolve(title)))

// Of what is on files nothing is declared, so that its `on` takes any name.
server.of("files").on("changed", (name: string) => name)

console.log(JSON.stringify(["ring", await server.request("ring")]))
console.log(JSON.stringify(["news", await heard]))
server.off("cup-served", served)
bell.off("let_in", letIn)
console.log(JSON.stringify(["ring", await server.request("ring")]))
socket.close()

// What not every library here has.
export const more = () =>
  server
    .once("close", (event, wasOpen) => wasOpen.valueOf())
    .addListener("news", (title) => title.toUpperCase())
    .removeListener("news", () => {})
    .removeAllListeners("news")
