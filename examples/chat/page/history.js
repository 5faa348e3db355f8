// Reading back what was said, newest first, in batches, no faster than the page takes them.

const BATCH = 30

/** Batches of the messages of a room with numbers between the two. Leaving the loop ends the stream on the server. */
export function readHistory(connection, room, { before = null, after = 0 } = {}) {
  return connection.hasStreams ? streamed(connection, room, before, after) : paged(connection, room, before, after)
}

/**
 * ws-wrapper 4: the server's generator is a channel. `for await` over it would do for a body that is quick; a reader
 * who scrolls is not, and overflows its buffer of one item. With "pull" nothing comes before it is asked for.
 */
async function* streamed(connection, room, before, after) {
  const channel = await connection.request("history", room, before, after)
  try {
    for (let batch = { done: false }; !batch.done; ) {
      batch = await connection.answer(channel.request("pull", BATCH))
      yield batch.values
    }
  } finally {
    if (connection.isOpen) channel.abort() // tells the server, if it was not the end
    channel.close()
  }
}

/** ws-wrapper 3: a request for each page. */
async function* paged(connection, room, before, after) {
  for (;;) {
    const messages = await connection.request("history_page", room, before, after, BATCH)
    yield messages
    if (messages.length < BATCH) return
    before = messages.at(-1).number
  }
}
