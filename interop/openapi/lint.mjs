// What Redocly's linter says of the OpenAPI documents in files, as JSON: for each file, a list of [rule, message].
import { createConfig, lint } from "@redocly/openapi-core"

// Only the owner of an API knows its license.
const config = await createConfig({ extends: ["recommended-strict"], rules: { "info-license": "off" } })
const found = {}
for (const ref of process.argv.slice(2)) {
  const problems = await lint({ ref, config })
  found[ref] = problems.map(({ ruleId, message, location }) => [ruleId, `${location[0].pointer}: ${message}`])
}
console.log(JSON.stringify(found))
