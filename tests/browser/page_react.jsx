// A page with React, whose components show what the hooks return. A test renders some of them, by their names.

import { Activity, StrictMode } from "react"
import { createRoot } from "react-dom/client"
import { renderToString } from "react-dom/server"
import { Client } from "python-wsrpc"
import { useCall, useClient, useFollow, useRoom, useStatus, Wsrpc } from "python-wsrpc/react"

const client = new Client("/ws")
const made = [] // the calls and events that the page has sent
client.useOutgoing((call, next) => {
  made.push(call.event)
  return next()
})

const attic = { initial: [], on: { said: (texts, text) => [...texts, text] }, about: "here" }
const rooms = { attic, lobby: { ...attic, last: 9 }, cellar: { ...attic, about: undefined } }
const told = (error) => error?.code ?? error?.name ?? error

const components = {
  status() {
    const { state, error, retryAt } = useStatus()
    return [state, told(error), typeof retryAt]
  },
  call({ event }) {
    const { call, value, error, pending } = useCall(event)
    globalThis.call = call
    return [value, told(error), pending]
  },
  run({ args = [3], ...options }) {
    const { items, ended, error, run } = useFollow("count", args, options)
    globalThis.run = run
    return [items, ended, told(error)]
  },
  room({ name }) {
    const { state, present, live, complete, error } = useRoom(name, rooms[name] ?? attic)
    return [state, present.map(({ about }) => about), live, complete, told(error)]
  },
  client: () => useClient() === client,
}

function Shown({ id, options: { kind = id, ...options } }) {
  return <p id={id}>{JSON.stringify(components[kind](options))}</p>
}

function App({ parts }) {
  const shown = Object.entries(parts).map(([id, { mode, ...options }]) => (
    <Activity key={id} mode={mode}>
      <Shown id={id} options={options} />
    </Activity>
  ))
  return (
    <StrictMode>
      <Wsrpc client={client}>{shown}</Wsrpc>
    </StrictMode>
  )
}

const root = createRoot(document.body.appendChild(document.createElement("main")))
const show = (parts) => root.render(<App parts={parts} />)
const onServer = (parts) => renderToString(<App parts={parts} />).replace(/<[^>]*>/g, " ").replace(/&quot;/g, '"')
Object.assign(globalThis, { client, made, show, onServer })
