// Reads a run with the client of Durable Streams. Prints each item, where the items that came with it end, and the end.
import { stream } from "@durable-streams/client"

const [url, offset] = process.argv.slice(2)
try {
  const response = await stream({ url, offset, live: "long-poll", warnOnHttp: false })
  response.closed.catch(() => {}) // rejected as the items are
  for await (const item of response.jsonStream()) console.log(`${item} ${response.offset}`)
  console.log(response.streamClosed ? "closed" : "open")
} catch (error) {
  console.log(`${error.status} ${error.json.error.code}`)
}
