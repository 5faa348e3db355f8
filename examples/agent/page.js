import { Client } from "/wsrpc/client.js"

const find = (selector) => document.querySelector(selector)

// ---------------------------------------------------------------- what a reload must not lose

location.hash ||= crypto.randomUUID()
const thread = location.hash.slice(1) // the conversation: a second tab has the same address
find("a").href = location.href

// They are stored only while the page reloads. So a duplicate of this tab reads the runs from their first event.
const runs = JSON.parse(sessionStorage[thread] ?? "[]")
sessionStorage.removeItem(thread)
addEventListener("pagehide", () => (sessionStorage[thread] = JSON.stringify(runs)))

// What this browser's other tabs must know: the input of each run that has begun. Its events come from the server.
const begun = () => JSON.parse(localStorage[thread] ?? "[]")

// ---------------------------------------------------------------- the tools, which the server calls

const client = new Client(`/ws?thread=${thread}`)
client.status.subscribe((state) => (find("output").textContent = state))

const question = { type: "object", properties: { question: { type: "string" } }, required: ["question"] }
const tools = [
  { name: "current_time", description: "The time on the user's clock", parameters: { type: "object", properties: {} } },
  { name: "pick_color", description: "Let the user pick a color", parameters: question },
  { name: "confirm", description: "Let the user say yes or no", parameters: question },
]
client.of("tools").on("current_time", () => new Date().toString())
client.of("tools").on("confirm", ask)
client.of("tools").on("pick_color", async function (args) {
  return (await ask.call(this, args, true)) === "yes" ? find("dialog input").value : "none"
})

function ask({ question }, withColor = false) {
  const dialog = find("dialog")
  find("dialog p").textContent = question
  find("dialog input").hidden = !withColor
  dialog.returnValue = "no"
  dialog.show() // not modal, so that Stop can be pressed, too
  this.signal.addEventListener("abort", () => dialog.close()) // another tab has answered, or somebody has pressed Stop
  return new Promise((resolve) => (dialog.onclose = () => dialog.open || resolve(dialog.returnValue)))
}

// ---------------------------------------------------------------- runs: a question, and the parts of its answer

find("#ask").onsubmit = (event) => {
  event.preventDefault()
  const before = runs.flatMap(({ input, parts }) => [input.messages.at(-1), ...parts.filter(({ role }) => role)])
  const message = { id: crypto.randomUUID(), role: "user", content: find("#prompt").value }
  find("#prompt").value = ""
  const messages = [...before.map(({ id, role, content }) => ({ id, role, content })), message]
  start({ input: { threadId: thread, runId: message.id, messages, tools }, parts: [] })
}

function start(run) {
  runs.push(run)
  read(run)
}

/** Reads the runs that another tab has begun, from their first event. */
function join() {
  const isNew = ({ runId }) => !runs.some((run) => run.input.runId === runId)
  for (const input of begun().filter(isNew)) start({ input, parts: [], position: 0 })
}

/** Begins a run, or continues after a position. */
async function read(run) {
  const section = find("main").appendChild(document.createElement("section"))
  draw(section, run)
  if (run.isOver) return
  const events = client.with({ key: run.input.runId, after: run.position }).follow("generate", run.input)
  find("#stop").onclick = () => events.stop()
  try {
    for await (const event of events) {
      if (run.position === undefined) localStorage[thread] = JSON.stringify([...begun(), run.input])
      apply(event, run.parts)
      run.position = events.position
      draw(section, run)
    }
  } catch (error) {
    run.parts.push({ kind: "end", content: `(${error.message})` })
  }
  run.isOver = true
  draw(section, run)
}

function apply(event, parts) {
  const part = parts.find(({ id }) => id === (event.toolCallId ?? event.messageId))
  if (event.type === "TEXT_MESSAGE_START") parts.push({ id: event.messageId, role: "assistant", kind: "answer", content: "" })
  if (event.type === "TEXT_MESSAGE_CONTENT") part.content += event.delta
  if (event.type === "TOOL_CALL_START") parts.push({ id: event.toolCallId, kind: "tool", content: `${event.toolCallName}: ` })
  if (event.type === "TOOL_CALL_RESULT") part.content += event.content
}

function draw(section, { input, parts }) {
  const shown = [{ kind: "question", content: input.messages.at(-1).content }, ...parts]
  const line = ({ kind, content }) => Object.assign(document.createElement("p"), { className: kind, textContent: content })
  section.replaceChildren(...shown.map(line))
  find("#stop").disabled = runs.every((run) => run.isOver)
}

runs.forEach(read)
join()
addEventListener("storage", ({ key }) => key === thread && join())
