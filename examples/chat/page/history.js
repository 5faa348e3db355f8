// Reads old messages, newest first, in batches, no faster than the page takes them.

const BATCH = 30

/** Yields batches of a room's messages with numbers between the two. Leaving the loop ends the stream on the server. */
export function readHistory(connection, room, { before = null, after = 0 } = {}) {
  return connection.hasStreams ? streamed(connection, room, before, after) : paged(connection, room, before, after)
}

/**
 * With ws-wrapper 4 the server's generator is a channel. `for await` over it is good for a quick loop body. A reader
 * who scrolls is slow, and overflows its buffer of one item. With "pull" the server sends only what was asked for.
 */
async function* streamed(connection, room, before, after) {
  const channel = await connection.request("history", room, before, after)
  try {
    for (let batch = { done: false }; !batch.done; ) {
      batch = await connection.answer(channel.request("pull", BATCH))
      yield batch.values
    }
  } finally {
    if (connection.isOpen) channel.abort() // stops the server, unless the stream has ended
    channel.close()
  }
}

/** With ws-wrapper 3 each page is a request. */
async function* paged(connection, room, before, after) {
  for (;;) {
    const messages = await connection.request("history_page", room, before, after, BATCH)
    yield messages
    if (messages.length < BATCH) return
    before = messages.at(-1).number
  }
}
