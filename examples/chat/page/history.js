// Reads old messages, newest first, in batches, no faster than the page takes them.

const BATCH = 30

/** Yields batches of a room's messages with numbers between the two. Leaving the loop ends the stream on the server. */
export async function* readHistory(connection, room, { before = null, after = 0 } = {}) {
  let batch = []
  for await (const message of connection.client.stream("history", room, before, after)) {
    batch.push(message)
    if (batch.length === BATCH) {
      yield batch
      batch = []
    }
  }
  yield batch
}
