// All that the page does. The status, the room, the answer and the upload survive a dropped connection by themselves.
import { Aborted, Client } from "python-wsrpc"
import { msgpack } from "python-wsrpc/msgpack"
import type { Api } from "./api.js"

const form = (id: string) => document.querySelector<HTMLFormElement>(`form#${id}`)!
const field = (id: string) => document.querySelector<HTMLInputElement>(`input#${id}`)!
const output = (id: string) => document.querySelector<HTMLOutputElement>(`output#${id}`)!
const stop = document.querySelector<HTMLButtonElement>("button#stop")!
const bar = document.querySelector("progress")!

async function freshToken(): Promise<string> {
  const response = await fetch("/token", { method: "POST" }) // the cookie of the login goes along
  if (!response.ok) throw new Error("not logged in")
  return response.text()
}

function enter(): void {
  const client = new Client<Api>(async () => ({ url: "/ws", token: await freshToken() }), { codec: msgpack })
  client.status.subscribe((state) => (output("status").textContent = state))

  client.on("said", (name, text) => (output("room").textContent += `${name}: ${text}\n`))
  form("say").onsubmit = () => {
    client.emit("say", field("text").value)
    field("text").value = ""
  }

  form("ask").onsubmit = async () => {
    const controller = new AbortController()
    stop.onclick = () => controller.abort()
    output("answer").textContent = ""
    try {
      const words = client.with({ signal: controller.signal }).stream("generate", field("prompt").value)
      for await (const word of words) output("answer").textContent += word
    } catch (error) {
      output("answer").textContent += error instanceof Aborted ? "(stopped)" : String(error)
    }
  }

  field("file").onchange = async () => {
    const file = field("file").files![0]!
    bar.max = file.size
    const withProgress = client.with({ progress: ({ bytes }) => (bar.value = bytes) })
    output("stored").textContent = await withProgress.upload("store", file, file.name).catch(String)
  }
}

addEventListener("submit", (event) => event.preventDefault()) // the page stays
form("login").onsubmit = async () => {
  await fetch("/login", { method: "POST", body: field("name").value })
  form("login").hidden = true
  document.querySelector("main")!.hidden = false
  enter()
}
