import { Client } from "/wsrpc/client.js"

const find = (selector) => document.querySelector(selector)
const make = (tag, fields) => Object.assign(document.createElement(tag), fields)

location.hash ||= crypto.randomUUID()
const conversation = location.hash.slice(1) // a second tab has the same address
find("a").href = location.href

const client = new Client(`/ws?conversation=${conversation}`)
const surely = client.with({ retry: "idempotent" }) // what may be asked twice, so also after a worker was killed
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
  const others = room.present.get().filter(({ user }) => user !== me)
  const types = ({ state, about }) => state === "online" && about.some(({ typing }) => typing)
  const verb = (user) => (types(user) ? "is typing" : "is here")
  find("#others").textContent = others.map((each) => `${each.user.split("-")[0]} ${verb(each)}`).join(", ")
})

function showStaff(staff) {
  find("main").className = staff ? "human" : "" // without Retry
  find("#staff").textContent = staff ? "A human answers" : "The model answers"
  find("#take").textContent = staff ? "Hand back" : "Take over"
}

/** Shows a message. It may come twice, and an old state after a new one. */
function show(message) {
  const age = ({ round, state }) => 2 * round + (state !== "asked")
  let shown = messages.get(message.id)
  if (shown && age(message) < age(shown)) return
  if (!shown) messages.set(message.id, (shown = { section: find("main").appendChild(make("section")) }))
  Object.assign(shown, message)
  if (shown.state === "asked") follow(shown)
  else endQuestions(shown)
  draw(shown)
}

function draw({ section, id, author, text, answer, state, round, run }) {
  const line = (className, textContent) => make("p", { className, textContent })
  const written = answer || run?.streamed
  section.replaceChildren(line(author, text), ...(written ? [line("answer", written)] : []))
  const note = state === "asked" ? run.note : state === "done" ? "" : `(${state})`
  if (note) section.append(line("note", note))
  if (state === "stopped" || state === "failed") {
    const onclick = () => surely.request("again", id, round).catch(console.warn)
    section.append(make("button", { className: "retry", textContent: "Retry", onclick }))
  }
  find("#stop").disabled = asked().length === 0
}

const asked = () => [...messages.values()].filter(({ state }) => state === "asked")

// ---------------------------------------------------------------- answers: one page starts the run, others join it

async function follow(message, after) {
  const { id, round } = message
  if (!after && message.run?.round === round) return
  const run = (message.run = { round, streamed: after ? "… " : "", note: "" })
  const parts = client.with({ key: `${id}.${round}`, attempts: 3, after }).follow("answer", conversation, id, round)
  let begins = !after
  try {
    for await (const part of parts) {
      if (part.begin) begins = true // perhaps another attempt: its first text is all that was written before
      if (part.text) {
        run.streamed = begins ? part.text : run.streamed + part.text
        begins = false
      }
      if (part.of) closeQuestion(`${id} ${round} ${part.of}`) // a tab has answered
      run.note = parts.attempt > 1 ? `(goes on: attempt ${parts.attempt})` : ""
      draw(message)
    }
  } catch (error) {
    // Its first words are no longer kept, but the next ones are. All of it comes with its end.
    if (error.code === "wsrpc.items_gone" && error.data) return follow(message, `${parts.attempt}:${error.data - 1}`)
    run.note = `(${error.message})`
    if (error.code === "wsrpc.overloaded") return draw(message) // it has not begun
  }
  draw(message)
  // Its end was not emitted: all attempts are lost, or Redis was away. "stop" emits what is stored.
  if (message.state === "asked") surely.request("stop", id, round).catch(console.warn)
}

find("#stop").onclick = () =>
  asked().forEach(({ id, round }) => surely.request("stop", id, round).catch(console.warn))
find("#take").onclick = () => surely.request("take_over", find("#take").textContent === "Take over").catch(console.warn)

// ---------------------------------------------------------------- questions of the model: one form for each id

const questions = new Map() // id → { form, answer }

client.of("tools").on("ask_user", ({ question }, id) => {
  if (questions.get(id)?.question !== question) ask(id, question)
  return questions.get(id).answer // also one that was given while nobody asked
})

function ask(id, question) {
  closeQuestion(id)
  const form = make("form", { className: "question" })
  const buttons = ["Yes", "No"].map((text) => make("button", { value: text.toLowerCase(), textContent: text }))
  form.append(make("p", { textContent: question }), ...buttons)
  const answer = new Promise((resolve) => {
    form.onsubmit = (event) => {
      event.preventDefault()
      const first = surely.request("choose", id, event.submitter.value) // that of another tab, perhaps
      first.then((answer) => (form.remove(), resolve(answer)), console.warn)
    }
  })
  questions.set(id, { question, form, answer })
  find("#questions").append(form)
}

function closeQuestion(id) {
  questions.get(id)?.form.remove()
}

function endQuestions(message) {
  for (const id of [...questions.keys()].filter((id) => id.startsWith(message.id))) {
    closeQuestion(id)
    questions.delete(id)
  }
}

// ---------------------------------------------------------------- what the user says

let last = {} // the same text after a failure has the same id, because it may be stored already

find("#say").onsubmit = async (event) => {
  event.preventDefault()
  const input = find("#text")
  if (last.text !== input.value) last = { id: crypto.randomUUID(), text: input.value }
  find("#say button").disabled = true
  try {
    await surely.request("say", last.id, last.text)
    last = {}
    input.value = "" // what is not stored stays in the input
    input.oninput()
    find("output").textContent = client.status.get()
  } catch (error) {
    console.warn(error)
    find("output").textContent = "not sent: try again"
  }
  find("#say button").disabled = false
}

let typing = false
find("#text").oninput = () => {
  if (typing !== (typing = find("#text").value !== "")) room.setAbout({ typing }).catch(console.warn)
}
