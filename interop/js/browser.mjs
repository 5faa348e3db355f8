// The agent in a page, with the browser's own WebSocket: it dials, and has the commands that agent.mjs has for that.
// Driven through `obey`; the page's address says which library it is: browser.html?library=ws-wrapper | ws-wrapper-4 | plain-4

import { Answers } from "./answers.mjs"
import { abilities, commandsOf } from "./commands.mjs"
import { Journal } from "./journal.mjs"
import { Peers } from "./peers.mjs"
import { describe } from "./values.mjs"

const LIBRARIES = {
  async "ws-wrapper"() {
    return { version: await versionOf("ws-wrapper"), Wrapper: (await import("ws-wrapper")).default }
  },
  async "ws-wrapper-4"() {
    const { default: Wrapper, iterableHandler } = await import("ws-wrapper-4")
    return { version: await versionOf("ws-wrapper-4"), Wrapper, iterableHandler, cancels: true, anonymous: true }
  },
  async "plain-4"() {
    const { default: Wrapper, VERSION: version, iterableHandler } = await import("./plain4.mjs")
    return { version, Wrapper, iterableHandler, cancels: true, anonymous: true }
  },
}

async function versionOf(name) {
  return (await (await fetch(`node_modules/${name}/package.json`)).json()).version
}

function dial(url, { protocols }) {
  const socket = new WebSocket(url, protocols)
  const opened = new Promise((resolve, reject) => {
    socket.addEventListener("open", resolve)
    socket.addEventListener("error", () => reject(new Error(`no connection to ${url}`)))
  })
  return { socket, opened }
}

const name = new URLSearchParams(location.search).get("library")
const library = { name, ...(await LIBRARIES[name]()) }
const journal = new Journal()
const answers = new Answers()
const commands = commandsOf({ library, journal, answers, peers: new Peers(library, journal, answers, dial) })

/** One command, and its answer, as JSON. */
globalThis.obey = async (text) => {
  const { command, ...fields } = JSON.parse(text)
  try {
    if (!Object.hasOwn(commands, command)) throw new Error(`a page has no command '${command}'`)
    return JSON.stringify({ ok: (await commands[command](fields)) ?? null })
  } catch (error) {
    return JSON.stringify({ error: describe(error) })
  }
}
globalThis.ready = { version: library.version, can: abilities(library) }
