import { Client } from "/wsrpc/client.js"

const find = (selector) => document.querySelector(selector)
const make = (tag, fields) => Object.assign(document.createElement(tag), fields)

location.hash ||= crypto.randomUUID()
const conversation = location.hash.slice(1) // a second tab has the same address
find("a").href = location.href

const client = new Client(`/ws?conversation=${conversation}`)
const surely = client.with({ retry: "idempotent" }) // what may be asked twice, so also after a worker was killed
const send = (...call) => surely.request(...call).catch(console.warn)
client.status.subscribe((state) => (find("output").textContent = state))

// ---------------------------------------------------------------- the conversation: its state, then its events

const messages = new Map() // id → the message as the server has it, and what this page adds to it
const room = client.room(`chat ${conversation}`, { about: { typing: false } })
let me

room.on("state", (state) => {
  me = state.me
  find("#take").hidden = !state.may_take
  showStaff(state.staff)
  state.messages.forEach(show)
})
client.on("said", show)
client.on("staff", showStaff)
room.present.subscribe(() => {
  const types = ({ state, about }) => state === "online" && about.some(({ typing }) => typing)
  const line = (each) => `${each.user.split("-")[0]} ${types(each) ? "is typing" : "is here"}`
  find("#others").textContent = room.present.get().filter(({ user }) => user !== me).map(line).join(", ")
})

function showStaff(staff) {
  find("main").className = staff ? "human" : "" // without Retry
  find("#staff").textContent = staff ? "A human answers" : "The model answers"
  find("#take").textContent = staff ? "Hand back" : "Take over"
}

/** Shows a message. It may come twice, and an old state after a new one. */
function show(message) {
  const age = ({ round, state }) => 2 * round + (state !== "asked")
  const shown = messages.get(message.id) ?? { round: 0, section: find("main").appendChild(make("section")) }
  if (age(message) < age(shown)) return
  messages.set(message.id, Object.assign(shown, message))
  if (shown.state === "asked") follow(shown)
  draw(shown)
}

function draw({ section, id, author, text, answer, state, round, run }) {
  const line = (className, textContent) => (textContent ? [make("p", { className, textContent })] : [])
  const note = state === "asked" ? run.note : state === "done" ? "" : `(${state})`
  const open = state === "asked" ? run.questions.values() : []
  section.replaceChildren(...line(author, text), ...line("answer", answer || run?.streamed), ...open, ...line("note", note))
  const retry = make("button", { className: "retry", textContent: "Retry", onclick: () => send("again", id, round) })
  if (state !== "asked" && state !== "done") section.append(retry)
  find("#stop").disabled = asked().length === 0
}

const asked = () => [...messages.values()].filter(({ state }) => state === "asked")

// ---------------------------------------------------------------- answers: one page starts the run, others join it

async function follow(message, after) {
  const { id, round } = message
  if (!after && message.run?.round === round) return
  const items = client.with({ key: `${id}.${round}`, after }).follow("answer", conversation, id, round)
  const run = (message.run = { round, items, streamed: after ? "… " : "", questions: new Map(), note: "" })
  try {
    for await (const { text, tool, of } of items) {
      run.streamed += text ?? ""
      if (tool && !run.questions.has(tool.id)) run.questions.set(tool.id, question(items, tool))
      run.questions.delete(of) // a tab has answered
      draw(message)
    }
  } catch (error) {
    // Its first words are no longer kept, but the next ones are.
    if (error.code === "wsrpc.items_gone" && error.data) return follow(message, error.data - 1)
    run.note = `(${error.message})`
    draw(message)
  }
}

find("#stop").onclick = () => asked().forEach(({ id, round }) => send("stop", id, round))
find("#take").onclick = () => send("take_over", find("#take").textContent === "Take over")

/** Returns a form. The first answer counts, perhaps that of another tab: both have the same id. */
function question(items, { id, function: { arguments: json } }) {
  const form = make("div", { className: "question", textContent: JSON.parse(json).question })
  const onclick = ({ target }) => items.send({ text: target.value, of: id }, { id }).catch(console.warn)
  form.append(...["Yes", "No"].map((text) => make("button", { textContent: text, value: text.toLowerCase(), onclick })))
  return form
}

// ---------------------------------------------------------------- what the user says

const [input, button] = [find("#text"), find("#say button")]
let last = {} // the same text after a failure has the same id, because it may be stored already

find("#say").onsubmit = async (event) => {
  event.preventDefault()
  if (last.text !== input.value) last = { id: crypto.randomUUID(), text: input.value }
  button.disabled = true
  try {
    await tell(last)
    last.text = input.value = "" // what is not stored stays in the input
    input.oninput()
    find("output").textContent = client.status.get()
  } catch (error) {
    find("output").textContent = `not sent: ${error.message}`
  }
  button.disabled = false
}

/** While the model writes, what the user says is for this answer. If it ends before, it is a message of its own. */
async function tell({ id, text }) {
  const run = find("#take").hidden && asked().at(-1)?.run
  const ended = (error) => /not_read|items_gone/.test(error.code) || Promise.reject(error)
  if (!run || (await run.items.send({ text }, { id }).catch(ended))) await surely.request("say", id, text)
}

let typing = false
input.oninput = () => typing !== (typing = input.value !== "") && room.setAbout({ typing }).catch(console.warn)
