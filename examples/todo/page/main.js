import { Client } from "../wsrpc/client.js"

const server = new Client("/ws")
const form = document.querySelector("form")
const fieldset = document.querySelector("fieldset")
const input = document.querySelector("input")
const list = document.querySelector("ul")
const status = document.querySelector("[role=status]")

function say(text, online) {
  status.textContent = text
  fieldset.disabled = !online
}

function show(task) {
  let box = document.getElementById(task.id)
  if (!box) {
    box = document.createElement("input")
    box.type = "checkbox"
    box.id = task.id
    box.onchange = () => server.request("mark", task.id, box.checked).catch((error) => say(error.message, true))
    const label = document.createElement("label")
    const text = document.createElement("span")
    text.textContent = task.text
    label.append(box, " ", text)
    const item = document.createElement("li")
    item.append(label)
    list.append(item)
  }
  box.checked = task.done
}

server.on("changed", show)

async function watch() {
  try {
    const tasks = await server.request("watch")
    list.replaceChildren()
    tasks.forEach(show)
    say("Connected", true)
  } catch (error) {
    say(error.message, false)
  }
}

server.status.subscribe((state) => {
  if (state === "open") watch()
  else say("Offline: connecting again …", false)
})

form.addEventListener("submit", async (event) => {
  event.preventDefault()
  try {
    await server.request("add", input.value)
    input.value = ""
  } catch (error) {
    say(error.message, true)
  }
})
