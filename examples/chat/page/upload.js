// Sends a file as an upload of its pieces, which continues by itself after a drop.

import { wellFormed } from "./text.js"

/**
 * Sends the bytes that the server does not have yet; call it again when a session was lost. Calls `progress(bytes)`
 * when pieces were sent.
 */
export async function upload(client, { id, room, file, signal }, progress) {
  const have = await client.with({ signal }).request("uploaded", id)
  progress(have)
  const sent = ({ bytes }) => progress(have + bytes)
  const uploader = client.with({ signal, progress: sent })
  await uploader.upload("upload", file.slice(have), room, id, wellFormed(file.name), file.size, have)
}
