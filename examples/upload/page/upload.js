/** Sends a file, or what the server does not have of it yet. Goes on after a lost session, until `signal` is aborted. */
export async function upload(client, file, { signal, progress }) {
  const id = await idOf(file)
  const caller = client.with({ signal, timeout: 0 })
  for (;;) {
    try {
      const offset = await caller.request("size", id)
      progress(offset)
      const sender = caller.with({ progress: ({ bytes }) => progress(offset + bytes) })
      return await sender.upload("append", file.slice(offset), id, file.size, offset)
    } catch (error) {
      if (error.name !== "ConnectionLost" || client.status.get() === "closed") throw error
    }
  }
}

/** Returns a hash of the content: of each piece with the hash of those before. */
async function idOf(file) {
  let hash = new ArrayBuffer(32)
  for (let at = 0; at < file.size; at += 2 ** 20) {
    const bytes = await new Blob([hash, file.slice(at, at + 2 ** 20)]).arrayBuffer()
    hash = await crypto.subtle.digest("SHA-256", bytes)
  }
  return Array.from(new Uint8Array(hash), (byte) => byte.toString(16).padStart(2, "0")).join("")
}
