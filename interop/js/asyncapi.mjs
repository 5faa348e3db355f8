// What the parser of AsyncAPI's makers says of the documents in files, as JSON: for each file, a list of [code, message].
import { readFileSync } from "node:fs"
import { Parser } from "@asyncapi/parser"

const parser = new Parser()
const found = {}
for (const file of process.argv.slice(2)) {
  const { document, diagnostics } = await parser.parse(readFileSync(file, "utf8"))
  found[file] = diagnostics.map(({ code, message, path }) => [code, `${path.join(".")}: ${message}`])
  if (document === undefined) found[file].push(["unreadable", "there is no document"])
}
console.log(JSON.stringify(found))
