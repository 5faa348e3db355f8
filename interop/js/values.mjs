// How JavaScript values that JSON cannot hold travel between the agent and its driver:
// {"$undefined": true}, {"$number": "NaN"}, {"$error": {message, ...}} and {"$channel": key}.

/** A value as JSON; `channelKey(value)` gives the key of an anonymous channel, or undefined. */
export function encode(value, channelKey = () => undefined) {
  if (value === undefined) return { $undefined: true }
  if (typeof value === "number" && !Number.isFinite(value)) return { $number: String(value) }
  if (value === null || typeof value !== "object") return value
  if (Array.isArray(value)) return value.map((item) => encode(item, channelKey))
  const key = channelKey(value)
  if (key !== undefined) return { $channel: key }
  if (value instanceof Error) {
    return { $error: { name: value.name, message: value.message, ...ownFields(value, channelKey) } }
  }
  return Object.fromEntries(Object.entries(value).map(([name, item]) => [name, encode(item, channelKey)]))
}

/** The way back, for what the driver sends. */
export function decode(value) {
  if (value === null || typeof value !== "object") return value
  if (Array.isArray(value)) return value.map(decode)
  const keys = Object.keys(value)
  if (keys.length === 1) {
    if (keys[0] === "$undefined") return undefined
    if (keys[0] === "$number") return Number(value.$number)
    if (keys[0] === "$error") {
      const { message, ...fields } = value.$error
      return Object.assign(new Error(message), decode(fields))
    }
  }
  return Object.fromEntries(Object.entries(value).map(([name, item]) => [name, decode(item)]))
}

/** Whatever was thrown, rejected with or given as a reason, in one shape. */
export function describe(thrown) {
  if (thrown instanceof Error) {
    return {
      is_error: true,
      name: thrown.name,
      message: thrown.message,
      value: null,
      props: ownFields(thrown),
    }
  }
  return { is_error: false, name: null, message: null, value: encode(thrown), props: {} }
}

function ownFields(error, channelKey) {
  const fields = Object.entries(error).filter(([name]) => name !== "name" && name !== "message")
  return Object.fromEntries(fields.map(([name, item]) => [name, encode(item, channelKey)]))
}
