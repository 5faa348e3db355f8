// Pages of ../test_page_reloads.py that are reloaded at random moments, while each reads streams to their end.
//
//   node page_reloads.mjs URL KEYS READERS RELOADS
//
// Each page is a thread, which is ended in the midst of whatever it does. What it has posted is what sessionStorage
// would keep. Prints how many items a page had at each reload, and in the end the items of all readers of each key.

import { once } from "node:events"
import { setTimeout as after } from "node:timers/promises"
import { Worker, isMainThread, parentPort, workerData } from "node:worker_threads"

import { WebSocket } from "ws"

import { Client } from "../../wsrpc/browser/client.js"

const [url, keys, readers, reloads] = process.argv.slice(2)

/** Reads on from the position that is kept. */
async function page({ key, position }) {
  const client = new Client({ url, token: "ada" }, { WebSocket })
  const items = client.with({ key, after: position }).stream("generate")
  parentPort.postMessage({ dials: true })
  for await (const item of items) parentPort.postMessage({ item, position: items.position })
  parentPort.postMessage({ over: true })
}

/** Opens a page, and reloads it, until one has read the stream to its end. Returns all items. */
async function read(key) {
  const items = []
  let position
  for (let left = reloads; ; left--) {
    const thread = new Worker(new URL(import.meta.url), { argv: [url], workerData: { key, position } })
    let reading
    const reads = new Promise((resolve) => (reading = resolve))
    const over = new Promise((resolve, reject) => {
      thread.on("error", reject)
      thread.on("message", (kept) => {
        if (kept.over) resolve(true)
        if (kept.position) items.push(kept.item)
        if (kept.position) reading()
        position = kept.position ?? position
      })
    })
    await Promise.race([once(thread, "message"), over])
    // The first time with few items, then at any moment.
    const moment = left === reloads ? () => reads : () => after(Math.random() * 300)
    const isOver = await Promise.race([over, ...(left > 0 ? [moment()] : [])])
    await thread.terminate()
    if (left <= 0) return isOver && items
    console.log(items.length)
  }
}

if (isMainThread) {
  const told = {}
  for (let n = 0; n < keys; n++) {
    told[`answer-${n}`] = await Promise.all(Array.from({ length: readers }, () => read(`answer-${n}`)))
  }
  console.log(JSON.stringify(told))
} else {
  await page(workerData)
}
