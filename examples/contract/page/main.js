// @ts-check
// The board in a page. Nothing is built: the types are in comments, and `npx tsc` checks them (see README.md).

import WebSocketWrapper from "ws-wrapper"

/** @import { Note, Typed } from "./api.js" */

const url = new URL("ws", location.href)
url.protocol = url.protocol.replace("http", "ws")
const socket = /** @type {any} */ (new WebSocket(url))
const server = /** @type {Typed<WebSocketWrapper>} */ (new WebSocketWrapper(socket))
const board = server.of("board")

/** @param {string} id */
const field = (id) => /** @type {HTMLInputElement} */ (document.getElementById(id))
const list = /** @type {HTMLElement} */ (document.getElementById("notes"))
const state = /** @type {HTMLElement} */ (document.getElementById("state"))

/** @param {Note} note */
function show(note) {
  if (document.getElementById(`note-${note.id}`)) return // it came with the stream and as an event
  const item = document.createElement("li")
  item.id = `note-${note.id}`
  item.className = note.color
  item.append(`${note.author}: ${note.text} `)
  const remove = document.createElement("button")
  remove.textContent = "Remove"
  remove.onclick = () => board.request("remove", note.id)
  item.append(remove)
  list.append(item)
}

board.on("posted", show)
board.on("removed", (id) => document.getElementById(`note-${id}`)?.remove())
server.on("close", () => (state.textContent = "The connection is lost: load the page again."))

document.getElementById("form")?.addEventListener("submit", async (event) => {
  event.preventDefault()
  const color = field("color").value === "pink" ? "pink" : "yellow"
  await board.request("post", field("author").value, field("text").value, color)
  field("text").value = ""
})

const notes = await board.request("notes")
for await (const note of notes) show(note)
notes.close()
