// As misuse.ts, in components of React.
import { Client } from "python-wsrpc"
import { useCall, useClient, useFollow, useRoom, useStatus, Wsrpc } from "python-wsrpc/react"
import { createElement } from "react"

import type { Api, Cup } from "./api.js"

declare module "python-wsrpc/react" {
  interface Register {
    api: Api
  }
}

createElement(Wsrpc, { client: new Client<Api>("/ws") })
createElement(Wsrpc, { client: "/ws" }) // 2769
export const state: string = useStatus().state
export const code: string | undefined = useStatus().error?.code // 2322
export const sum: Promise<number> = useClient().request("add", 1)
useClient().request("ad", 1) // 2345

const add = useCall("add", { timeout: 5_000 })
export const value: number | undefined = add.value
add.call(1)
add.call("1") // 2345
add.value.toFixed() // 18048
useCall("ad") // 2345
useCall("count") // 2345
useCall("add", { timeot: 1 }) // 2561

const { items, run } = useFollow("count", [3], { key: "k" })
export const read: readonly Cup[] = items
run?.stop()
run.stop() // 18048
items.push(1) // 2339
useFollow("count", ["3"], { key: "k" }) // 2322
useFollow("count", [3]) // 2554
useFollow("add", [3], { key: "k" }) // 2345

const cups = useRoom("lobby", { initial: 0, last: 5, on: { shown: (count, at, cup) => count + at.length + cup.drink.length } })
export const count: number = cups.state
cups.room?.setAbout({ typing: true })
cups.room.leave() // 18048
useRoom("lobby", { initial: 0, on: { shown: (count, at) => at } }) // 2322
useRoom("lobby", { last: 5 }) // 2741
