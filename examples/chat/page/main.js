// The page: handles the user's actions and the server's events, and shows the result.

import { Connection, ignoreLoss, isLoss } from "./connection.js"
import { avatar, make, sizeOf } from "./dom.js"
import { Outbox } from "./outbox.js"
import { Room } from "./room.js"
import { load, newId, save } from "./storage.js"
import { oneLine, wellFormed } from "./text.js"
import { upload } from "./upload.js"

const LOBBY = "lobby"
const TYPING_AGAIN = 3000 // milliseconds between two events of a user who goes on typing

const $ = (id) => document.getElementById(id)
let myName = localStorage.getItem("name") ?? ""

const connection = new Connection({
  said(message) {
    const room = rooms.get(message.room)
    if (!room) return
    room.add([message])
    room.setTyping(message.author, false)
    if (document.hidden || room !== current) room.unread++
    else if (!room.log.atEnd) $("to-end").hidden = false
    showRooms()
  },
  people: (room, names) => rooms.get(room)?.setPeople(names),
  typing: (room, name, active) => name !== myName && rooms.get(room)?.setTyping(name, active),
  rooms(names) {
    known = names
    showRooms()
  },
})
const outbox = new Outbox(connection)
const drafts = new Map(load("drafts", [])) // room → text
const uploads = new Map() // id → {id, room, file, running}, of uploads that are not complete
const rooms = new Map() // name → Room, of joined rooms
let known = [LOBBY] // names of all rooms
let current // the Room that is shown

// ---------------------------------------------------------------- the connection

connection.addEventListener("state", showState)
connection.addEventListener("session", () => arrive().catch(ignoreLoss))
$("retry").addEventListener("click", () => connection.client.connect())

/** Runs in each session, because the server knows nothing of the one before. */
async function arrive() {
  for (const room of rooms.values()) enter(room)
  known = await connection.client.request("rooms")
  showRooms()
}

function enter(room) {
  room.enter().then(deliver).catch(ignoreLoss)
}

function showState() {
  const text = { open: "Connected", connecting: "Connecting…", offline: "Offline, trying again…" }
  $("state").dataset.state = connection.state
  $("state").textContent = text[connection.state]
  $("retry").hidden = connection.state !== "offline"
  showWaiting()
}

// ---------------------------------------------------------------- rooms

function roomOf(name) {
  if (!rooms.has(name)) {
    const room = new Room(name, connection, () => myName)
    rooms.set(name, room)
    $("logs").append(room.log.element)
    room.addEventListener("change", () => room === current && showPeople())
    room.log.addEventListener("end", () => room === current && ($("to-end").hidden = true))
    if (connection.session) enter(room)
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

async function leave(room) {
  rooms.delete(room.name)
  save("rooms", [...rooms.keys()])
  room.log.element.remove()
  if (room === current) location.hash = [...rooms.keys()][0]
  showRooms()
  await room.leave()
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
      const click = () => leave(room).catch(ignoreLoss)
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
  const items = current.people.map((name) => make("li", {}, avatar(name), name === myName ? `${name} (you)` : name))
  $("people-list").replaceChildren(...items)
  $("people-count").textContent = current.people.length
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
  if (connection.isOpen) connection.client.emit("typing", current.name, active) // it is not worth sending later
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

const isJoined = (name) => rooms.get(name)?.isJoined

/** Sends the messages and uploads that wait, if they can be sent. */
function deliver() {
  outbox.deliver({ isJoined, said: (message) => rooms.get(message.room)?.add([message]), refused: showEntry })
  for (const entry of uploads.values()) send(entry)
}

const waitingText = () => (connection.isOpen ? "Sending…" : "Waiting for the connection")

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
  if (entry.running || entry.error || !isJoined(entry.room)) return
  entry.running = true
  try {
    const message = await upload(connection.client, entry, (bytes) => {
      entry.sent = bytes
      showUpload(entry)
    })
    uploads.delete(entry.id)
    rooms.get(entry.room)?.add([message])
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
    status: connection.isOpen ? `${sizeOf(sent)} of ${sizeOf(file.size)}` : waitingText(),
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
  start()
})

function start() {
  $("my-name").textContent = myName
  connection.connect(myName)
  for (const name of load("rooms", [])) roomOf(name)
  openRoom()
  $("text").focus()
}

if (myName) start()
else askName()
