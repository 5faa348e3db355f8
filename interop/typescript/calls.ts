// What any ws-wrapper can call. Prints each answer, by the event's name.
import WebSocket from "ws"
import WebSocketWrapper from "ws-wrapper"

import type { Events, Order, Typed } from "./events.js"

const socket = new WebSocket(process.argv[2]!)
const server = new WebSocketWrapper(socket) as Typed<WebSocketWrapper>
const files = server.of("files")

function show<E extends keyof Events>(event: E, answer: ReturnType<Events[E]>) {
  console.log(JSON.stringify([event, answer]))
}

const sum: number = await server.request("add", 1)
show("add", sum)
show("add", await server.request("add", 1, 2, 0.5, 0.25))
show("nothing", await server.request("nothing"))

const first = await server.request("order", { cups: [{ drink: "tea", size: "l" }, { drink: "milk" }] })
const size: "s" | "l" | undefined = first.cups[0]!.size // what has a default may be gone later
const second: Order = await server.timeout(5000).request("order", { cups: [], forTable: 3, follows: first })
show("order", first)
show("order", second)
console.log(JSON.stringify([size, second.follows?.cups[1]?.size]))

for (const pet of await server.request("adopt", { type: "Dog", name: "Rex" })) {
  show("adopt", [pet])
  if (pet.type === "Cat") pet.lives?.toFixed()
  else pet.name.toUpperCase()
}
show("adopt", await server.request("adopt", null))
show("move", await server.request("move", { x: 1 }))
show("move", await server.request("move", { x: 1, y: 2 }, [0.5, 0.5]))
show("echo_point", await server.request("echo_point", { x: 1 }))
show("swap", await server.request("swap", [1, "one"]))
show("swap", await server.request("swap", [1]))
show("search", await server.request("search", "abc"))
show("search", await server.request("search", "abc", { depth: 1, follow: true }, 3))
show("reverse", await server.request("reverse", btoa("abc")))
show("levels", await server.request("levels", 2))
show("times", await server.request("times"))
show("set-name", await server.request("set-name", { any: "thing" }))
show("tick", await server.request("tick"))
server.emit("tick", 5)
show("tick", await server.request("tick", 1))

const content: string = await files.request("read", "abc")
await server.of("rooms").request("join", "lobby")
console.log(JSON.stringify([content]))

files.on("changed", () => {})
socket.close()
