// Plays recordings of ws-wrapper to a page's `Client`; see ../test_page_client_vectors.py.
//
// Each line on stdin is one stimulus of a recording, `{kind, value}`, answered by `{sent, outcomes}`. With the kind
// "begin" another recording begins. It gets a module of its own, so that nothing of the one before is seen in it.

import { createInterface } from "node:readline"

let recording
let number = 0
for (const name of ["unhandledRejection", "uncaughtException"]) process.on(name, (error) => recording.fault(name, error))

for await (const line of createInterface({ input: process.stdin })) {
  const { kind, value } = JSON.parse(line)
  if (kind === "begin") recording = await import(`./page_client_recording.mjs?${++number}`)
  process.stdout.write(JSON.stringify(kind === "begin" ? {} : await recording.play(kind, value)) + "\n")
}
