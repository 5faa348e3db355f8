// How plain JavaScript sends items to a handler of wsrpc, reads a stream at its own pace, and takes items from a requestor
// of wsrpc. ws-wrapper has no helper for these; on the wire all are ordinary messages on an anonymous channel.

/** Sends `items` on a channel that a request brought; returns the handler's result. Close the channel afterwards. */
export async function sendItems(channel, items) {
  let wanted = true
  channel.on("stop", () => {
    wanted = false
  })
  for await (const value of items) {
    if (!wanted) break
    await channel.request("next", { value, done: false }) // answered when there is room for another
  }
  return channel.request("next", { done: true }) // answered with the handler's result
}

/** Reads a stream: calls `handle` with each item, and awaits it before the next item is sent. Then closes the channel. */
export async function readItems(channel, handle) {
  await new Promise((resolve, reject) => {
    channel.closeSignal.addEventListener("abort", () => reject(channel.closeSignal.reason))
    channel.on("next", async ({ value, done }) => {
      try {
        if (done) resolve()
        else await handle(value)
      } catch (error) {
        channel.abort(error)
      }
    })
    channel.emit("start")
  })
  channel.close()
}

/** In a handler: takes what the requestor sends, and answers the end with what `finish()` returns. */
export function takeItems(channel, take, finish) {
  channel.on("next", async ({ value, done }) => {
    if (!done) return take(value)
    const result = await finish()
    channel.close()
    return result
  })
  queueMicrotask(() => channel.emit("start")) // once the handler has returned the channel
  return channel
}
