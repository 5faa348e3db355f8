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
  else closeQuestions(`${shown.id} `)
  draw(shown)
}

function draw({ section, id, author, text, answer, state, round, run }) {
  const line = (className, textContent) => (textContent ? [make("p", { className, textContent })] : [])
  const note = state === "asked" ? run.note : state === "done" ? "" : `(${state})`
  section.replaceChildren(...line(author, text), ...line("answer", answer || run?.streamed), ...line("note", note))
  const retry = make("button", { className: "retry", textContent: "Retry", onclick: () => send("again", id, round) })
  if (state !== "asked" && state !== "done") section.append(retry)
  find("#stop").disabled = asked().length === 0
}

const asked = () => [...messages.values()].filter(({ state }) => state === "asked")

// ---------------------------------------------------------------- answers: one page starts the run, others join it

async function follow(message, after) {
  const { id, round } = message
  if (!after && message.run?.round === round) return
  const run = (message.run = { round, streamed: after ? "… " : "", note: "" })
  try {
    for await (const part of client.with({ key: `${id}.${round}`, after }).follow("answer", conversation, id, round)) {
      run.streamed += part.text ?? ""
      if (part.of) closeQuestions(`${id} ${round} ${part.of} `) // a tab has answered
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

// ---------------------------------------------------------------- questions of the model: one form for each

const questions = new Map() // id and text → { form, answer }

// The answer is also one that was given while nobody asked.
client.of("tools").on("ask_user", ({ question }, id) => questions.get(`${id} ${question}`)?.answer ?? ask(id, question))

function ask(id, question) {
  closeQuestions(`${id} `) // which another attempt asks no more
  const form = find("#questions").appendChild(make("div", { className: "question", textContent: question }))
  const answer = new Promise((resolve) => {
    for (const text of ["Yes", "No"]) {
      // The first answer counts, perhaps that of another tab.
      const onclick = () => surely.request("choose", id, text.toLowerCase()).then(resolve, console.warn)
      form.append(make("button", { textContent: text, onclick }))
    }
  })
  questions.set(`${id} ${question}`, { form, answer })
  return answer
}

const closeQuestions = (prefix) => questions.forEach(({ form }, key) => key.startsWith(prefix) && form.remove())

// ---------------------------------------------------------------- what the user says

const [input, button] = [find("#text"), find("#say button")]
let last = {} // the same text after a failure has the same id, because it may be stored already

find("#say").onsubmit = async (event) => {
  event.preventDefault()
  if (last.text !== input.value) last = { id: crypto.randomUUID(), text: input.value }
  button.disabled = true
  try {
    await surely.request("say", last.id, last.text)
    last.text = input.value = "" // what is not stored stays in the input
    input.oninput()
    find("output").textContent = client.status.get()
  } catch (error) {
    find("output").textContent = `not sent: ${error.message}`
  }
  button.disabled = false
}

let typing = false
input.oninput = () => typing !== (typing = input.value !== "") && room.setAbout({ typing }).catch(console.warn)
