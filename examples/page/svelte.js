// Stores for Svelte.

import { readable } from "svelte/store"

export const statusOf = (client) =>
  readable("connecting", (set) => {
    set(client.status.get())
    return client.status.subscribe(set)
  })

export const follow = (client, event, args, key) =>
  readable([], (set) => {
    const run = client.with({ key }).follow(event, ...args)
    const read = async (items = []) => {
      for await (const item of run) set((items = [...items, item]))
    }
    read()
    return () => run.return()
  })
