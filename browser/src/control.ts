// The control messages of wsrpc: JSON texts that ws-wrapper ignores. See "Extensions" in wsrpc's page on the protocol.

/** A control message, as it arrived. Only the type of `t` was checked. */
export interface Control {
  readonly t: string
  readonly [field: string]: unknown
}

/** Control messages have fewer characters than this. */
const LARGEST = 4096
/** Types of the control messages that are not counted in the session. */
const UNCOUNTED = new Set(["welcome", "ack", "resumed", "gone", "alive"])

export const isCounted = (control: Control): boolean => !UNCOUNTED.has(control.t)

export const writeControl = (control: Control): string => JSON.stringify({ "ws-wrapper": false, wsrpc: control })

/** Returns the control message in a text, or undefined if it is another message. */
export function readControl(text: string): Control | undefined {
  if (text.length >= LARGEST || !text.includes('"wsrpc"')) return undefined
  try {
    const { "ws-wrapper": ours, wsrpc, ...others } = JSON.parse(text)
    if (ours === false && typeof wsrpc?.t === "string" && !Object.keys(others).length) return wsrpc
  } catch {
    // not JSON, or not an object
  }
  return undefined
}

/** Returns a field that is a count, or NaN: comparisons with NaN are false, and sums with NaN are NaN. */
export function count(control: Control, field: string): number {
  const value = control[field]
  return Number.isSafeInteger(value) && (value as number) >= 0 ? (value as number) : NaN
}
