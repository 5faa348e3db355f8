// The page: handles the user's actions and the server's events, and shows the result.

import { connect, ignoreLoss, isLoss } from "./connection.js"
import { avatar, make, sizeOf } from "./dom.js"
import { Outbox } from "./outbox.js"
import { Room } from "./room.js"
import { load, newId, save } from "./storage.js"
import { oneLine, wellFormed } from "./text.js"
import { upload } from "./wsrpc/upload.js"

const LOBBY = "lobby"
const TYPING_AGAIN = 3000 // milliseconds between two events of a user who goes on typing

const $ = (id) => document.getElementById(id)
let myName = localStorage.getItem("name") ?? ""

const drafts = new Map(load("drafts", [])) // room → text
const uploads = new Map() // id → {id, room, file, running}, of uploads that are not complete
const rooms = new Map() // name → Room, of joined rooms
let known = [LOBBY] // names of all rooms
let current // the Room that is shown
let client
let outbox

// ---------------------------------------------------------------- the connection

const isOpen = () => ["open", "draining"].includes(client.status.get())

function start() {
  $("my-name").textContent = myName
  client = connect(myName)
  outbox = new Outbox(client)
  client.on("said", said)
  client.on("typing", (room, name, active) => name !== myName && rooms.get(room)?.setTyping(name, active))
  client.on("room", (name) => {
    known.push(name)
    showRooms()
  })
  client.of("rooms").on("missed", (room) => rooms.get(room)?.restart())
  client.status.subscribe((status, resumed) => {
    showState(status)
    if (status === "open" && !resumed) arrive().catch(ignoreLoss)
  })
  for (const name of load("rooms", [])) roomOf(name)
  openRoom()
  $("text").focus()
}
$("retry").addEventListener("click", () => client.connect())

/** Runs in each session, because the server knows nothing of the one before. The client itself joins the rooms. */
async function arrive() {
  deliver()
  for (const room of rooms.values()) room.readOlder()
  known = await client.request("rooms")
  showRooms()
}

function said(message) {
  const room = rooms.get(message.room)
  outbox.remove(message.id)
  uploads.delete(message.id)
  if (!room?.add([message])) return
  room.setTyping(message.author, false)
  if (room.isCurrent && (document.hidden || room !== current)) room.unread++
  else if (room === current && !room.log.atEnd) $("to-end").hidden = false
  showRooms()
}

function showState(status) {
  $("state").dataset.state = isOpen() ? "open" : "offline"
  $("state").textContent = isOpen() ? "Connected" : "Offline, trying again…"
  $("retry").hidden = isOpen()
  showWaiting()
}

// ---------------------------------------------------------------- rooms

function roomOf(name) {
  if (!rooms.has(name)) {
    const room = new Room(name, client, myName)
    rooms.set(name, room)
    $("logs").append(room.log.element)
    room.addEventListener("change", () => room === current && showPeople())
    room.log.addEventListener("end", () => room === current && ($("to-end").hidden = true))
    save("rooms", [...rooms.keys()])
  }
  return rooms.get(name)
}

/** Returns a room's name that the server accepts, whatever is in the address. */
function roomNameOf(text) {
  try {
    text = decodeURIComponent(text)
  } catch {
    // "100%", which is not encoded
  }
  return oneLine([...oneLine(text)].slice(0, 30).join(""))
}

/** Shows the room that the address names, after joining it. */
function openRoom() {
  const name = roomNameOf(location.hash.slice(1)) || LOBBY
  if (current) drafts.set(current.name, $("text").value)
  current = roomOf(name)
  for (const room of rooms.values()) room.log.element.hidden = room !== current
  current.log.toEnd()
  $("title").textContent = document.title = name
  $("text").value = drafts.get(name) ?? ""
  $("to-end").hidden = true
  closeDrawers()
  seen()
  showPeople()
  showWaiting()
}
addEventListener("hashchange", openRoom)

function leave(room) {
  rooms.delete(room.name)
  save("rooms", [...rooms.keys()])
  room.leave()
  if (room === current) location.hash = [...rooms.keys()][0]
  showRooms()
}

function seen() {
  if (!document.hidden && current) current.unread = 0
  showRooms()
}
addEventListener("visibilitychange", seen)

function showRooms() {
  const links = [...new Set([...rooms.keys(), ...known])].sort().map((name) => {
    const room = rooms.get(name)
    const link = make("a", { href: `#${encodeURIComponent(name)}`, "aria-current": room === current && "page" }, name)
    if (room?.unread) link.append(make("span", { class: "badge" }, room.unread, make("span", { class: "hidden" }, " new")))
    const item = make("li", { class: room ? "joined" : "" }, link)
    if (room && rooms.size > 1) {
      const click = () => leave(room)
      item.append(make("button", { type: "button", class: "icon leave", "aria-label": `Leave ${name}`, click }, "×"))
    }
    return item
  })
  $("room-list").replaceChildren(...links)
  const unread = [...rooms.values()].reduce((sum, room) => sum + room.unread, 0)
  $("unread").textContent = unread
  $("unread").hidden = unread === 0
  document.title = `${unread ? `(${unread}) ` : ""}${current?.name ?? "Chat"}`
}

function showPeople() {
  const { people } = current
  const items = people.map(({ user, state }) => {
    const note = state === "away" ? " (away)" : user === myName ? " (you)" : ""
    return make("li", { class: state }, avatar(user), `${user}${note}`)
  })
  $("people-list").replaceChildren(...items)
  $("people-count").textContent = people.length
  $("typing").textContent = current.typing
}

$("new-room").addEventListener("submit", (event) => {
  event.preventDefault()
  location.hash = encodeURIComponent(oneLine($("new-room-name").value))
  event.target.reset()
})

// ---------------------------------------------------------------- what is typed

let saidTyping = 0

function tellTyping(active) {
  if (active ? Date.now() - saidTyping < TYPING_AGAIN : saidTyping === 0) return
  saidTyping = active ? Date.now() : 0
  if (isOpen()) client.emit("typing", current.name, active) // it is not worth sending later
}

$("text").addEventListener("input", ({ target }) => {
  drafts.set(current.name, target.value)
  save("drafts", [...drafts])
  tellTyping(target.value.trim() !== "")
})
$("text").addEventListener("blur", () => tellTyping(false))
$("text").addEventListener("keydown", (event) => {
  if (event.key !== "Enter" || event.shiftKey || event.isComposing) return
  event.preventDefault()
  $("compose").requestSubmit()
})

$("compose").addEventListener("submit", (event) => {
  event.preventDefault()
  const text = wellFormed($("text").value.trim())
  if (!text) return
  $("text").value = ""
  drafts.delete(current.name)
  save("drafts", [...drafts])
  tellTyping(false)
  const entry = { id: newId(), room: current.name, text }
  outbox.add(entry)
  showEntry(entry)
  current.log.toEnd()
  deliver()
})

/** Sends the messages and uploads that wait. */
function deliver() {
  outbox.deliver(showEntry)
  for (const entry of uploads.values()) send(entry)
}

const waitingText = () => (isOpen() ? "Sending…" : "Waiting for the connection")

function showEntry(entry) {
  const log = roomOf(entry.room).log
  const again = () => {
    delete entry.error
    showEntry(entry)
    deliver()
  }
  const discard = () => {
    outbox.remove(entry.id)
    log.remove(entry.id)
  }
  log.addWaiting({ ...entry, status: waitingText(), actions: entry.error ? { "Try again": again, Discard: discard } : {} })
}

/** Updates the state of waiting messages, which depends on the connection. */
function showWaiting() {
  for (const entry of outbox.entries) showEntry(entry)
  for (const entry of uploads.values()) showUpload(entry)
}

// ---------------------------------------------------------------- files

$("attach").addEventListener("click", () => $("file").click())
$("file").addEventListener("change", ({ target }) => {
  const [file] = target.files
  target.value = "" // the same file may be chosen again
  if (!file) return
  const controller = new AbortController()
  const entry = { id: newId(), room: current.name, file, sent: 0, controller, signal: controller.signal }
  uploads.set(entry.id, entry)
  showUpload(entry)
  send(entry)
})

async function send(entry) {
  if (entry.running || entry.error) return
  entry.running = true
  try {
    const { id, room, file, signal } = entry
    const progress = (bytes) => {
      entry.sent = bytes
      showUpload(entry)
    }
    const uploaded = await upload(client, "uploads", file, { signal, progress })
    await client.with({ signal, retry: "idempotent" }).request("show_file", room, id, wellFormed(file.name), uploaded)
    uploads.delete(id)
  } catch (error) {
    if (!uploads.has(entry.id)) return
    if (!isLoss(error)) entry.error = error.message
    showUpload(entry) // after a loss it continues in the next session
  } finally {
    entry.running = false
  }
}

function showUpload(entry) {
  const { id, room, file, sent, error, controller } = entry
  const cancel = () => {
    uploads.delete(id)
    controller.abort()
    rooms.get(room)?.log.remove(id)
  }
  rooms.get(room)?.log.addWaiting({
    id,
    text: file.name,
    error,
    progress: error ? undefined : sent / (file.size || 1),
    status: isOpen() ? `${sizeOf(sent)} of ${sizeOf(file.size)}` : waitingText(),
    actions: { [error ? "Discard" : "Cancel"]: cancel },
  })
}

// ---------------------------------------------------------------- around it

const drawers = [...document.querySelectorAll(".drawer")]

function closeDrawers() {
  for (const button of drawers) toggleDrawer(button, false)
}

function toggleDrawer(button, open) {
  button.setAttribute("aria-expanded", open)
  $(button.dataset.drawer).classList.toggle("open", open)
}

for (const button of drawers) {
  button.addEventListener("click", () => {
    const open = button.getAttribute("aria-expanded") !== "true"
    closeDrawers()
    toggleDrawer(button, open)
  })
}
document.querySelector("main").addEventListener("pointerdown", closeDrawers)
addEventListener("keydown", ({ key }) => key === "Escape" && closeDrawers())
$("to-end").addEventListener("click", () => current.log.toEnd())

function askName() {
  $("name").value = myName
  $("welcome").returnValue = ""
  $("welcome").showModal()
}
$("rename").addEventListener("click", askName)
$("welcome").addEventListener("cancel", (event) => myName || event.preventDefault())
$("welcome").addEventListener("close", ({ target }) => {
  if (target.returnValue !== "named") return
  myName = oneLine($("name").value)
  localStorage.setItem("name", myName)
  if (client) location.reload() // with another session
  else start()
})

if (myName) start()
else askName()
