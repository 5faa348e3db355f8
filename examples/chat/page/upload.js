// Sends a file in pieces. Each is a request, and its answer says how many bytes the server has.

const PIECE = 64 * 1024

import { wellFormed } from "./text.js"

/**
 * Sends the bytes that the server does not have yet; call it again after a drop. Calls `progress(bytes)` after each
 * answer. Returns the message that the others see.
 */
export async function upload(connection, { id, room, file }, progress) {
  let have = await connection.request("upload", id, file.size)
  progress(have)
  while (have < file.size) {
    have = await connection.request("piece", id, have, await base64(file.slice(have, have + PIECE)))
    progress(have)
  }
  return connection.request("share", room, id, wellFormed(file.name), file.size)
}

/** JSON has no bytes: a handler's `bytes` argument is sent as base64. */
async function base64(blob) {
  const bytes = new Uint8Array(await blob.arrayBuffer())
  return btoa(Array.from(bytes, (byte) => String.fromCharCode(byte)).join(""))
}
