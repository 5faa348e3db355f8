// The control messages of wsrpc: JSON texts that ws-wrapper ignores. See "Extensions" in wsrpc's page on the protocol.

/** A control message, as it arrived: nothing in it was checked, except that `t` is a string. */
export interface Control {
  readonly t: string
  readonly [field: string]: unknown
}

/** Control messages have fewer characters than this. */
const LARGEST = 4096
/** What a server says without counting it in the session. */
const UNCOUNTED = new Set(["welcome", "ack", "resumed", "gone", "alive"])

export const isCounted = (control: Control): boolean => !UNCOUNTED.has(control.t)

export const writeControl = (control: Control): string => JSON.stringify({ "ws-wrapper": false, wsrpc: control })

/**
 * Leaves out fields named `toString`. A value that hides this method cannot become a text, so writing it into the text
 * of an error would throw.
 */
const withoutMethods = (key: string, value: unknown): unknown => (key === "toString" ? undefined : value)

/** Returns the control message in a text, or undefined if it is another message. */
export function readControl(text: string): Control | undefined {
  if (text.length >= LARGEST || !text.includes('"wsrpc"')) return undefined
  try {
    const { "ws-wrapper": ours, wsrpc, ...others } = JSON.parse(text, withoutMethods)
    if (ours === false && typeof wsrpc?.t === "string" && !Object.keys(others).length) return wsrpc
  } catch {
    // not JSON, or JSON that is no object
  }
  return undefined
}

/** Returns a field that is a count, or NaN: comparisons with that are false, and sums stay NaN. */
export function count(control: Control, field: string): number {
  const value = control[field]
  return Number.isSafeInteger(value) && (value as number) >= 0 ? (value as number) : NaN
}
