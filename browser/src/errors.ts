// The errors of calls.

/**
 * Whether the handler of a failed call has run.
 *
 * - `"not_sent"`: the message was never sent.
 * - `"not_run"`: the server has answered that no handler ran.
 * - `"ran"`: the handler ran, at least in part.
 * - `"unknown"`: the message was sent, but no answer has arrived, or the server does not know how far the handler got.
 */
export type Outcome = "not_sent" | "not_run" | "ran" | "unknown"

/** The error codes of requests whose handler the server has not run. */
const NOT_RUN = new Set<unknown>([
  "wsrpc.bad_arguments",
  "wsrpc.unknown_event",
  "wsrpc.overloaded",
  "wsrpc.draining",
  "wsrpc.key_reused",
  "wsrpc.not_read",
])

/** A call has failed. */
export class WsrpcError extends Error {
  override name = "WsrpcError"
  // Fields that the constructor sets are declared with `declare`, here and elsewhere: a definition would only add bytes.
  declare readonly outcome: Outcome
  declare readonly code: string | number | undefined
  declare readonly data: unknown

  constructor(message: string, outcome: Outcome, code?: string | number, data?: unknown) {
    super(message)
    this.outcome = outcome
    this.code = code
    this.data = data
  }
}

/** Returns a text for a value from the server. The value's own `toString` may be anything, so it is not called. */
export const textOf = (value: unknown): string =>
  typeof value === "object" && value ? Object.prototype.toString.call(value) : String(value)

/** The server has answered with an error, or has ended a stream with an error, from which `code` and `data` come. */
export class RemoteError extends WsrpcError {
  override name = "RemoteError"
  /** The error with all its fields, as it arrived. */
  declare readonly value: unknown
  /** The id of an unexpected exception, whose text the server does not send. Its log has the traceback with this id. */
  declare readonly errorId: string | undefined
  /** The seconds after which a further attempt may succeed, if the server says so. It does above a rate. */
  declare readonly retryAfter: number | undefined

  /**
   * @param isError whether the value is an error object. If not, it can be of any type
   * @param hasStarted whether the handler has certainly started, because it has opened a channel
   */
  constructor(value: unknown, isError: unknown, hasStarted = false) {
    const isObject = isError && typeof value === "object" && value !== null
    const { message, code, data, error_id, retry_after } = isObject ? (value as Record<string, unknown>) : { message: value }
    const known = typeof code === "string" || typeof code === "number" ? code : undefined
    const isUnknown = code === "wsrpc.run_lost" || code === "wsrpc.items_gone"
    const outcome = !hasStarted && NOT_RUN.has(code) ? "not_run" : isUnknown ? "unknown" : "ran"
    super(isObject ? textOf(message ?? "") : textOf(value), outcome, known, data)
    this.value = value
    this.errorId = typeof error_id === "string" ? error_id : undefined
    this.retryAfter = typeof retry_after === "number" ? retry_after : undefined
  }
}

/** The session has ended before the call was complete. `code` is the close code. */
export class ConnectionLost extends WsrpcError {
  override name = "ConnectionLost"
}

/** No answer has arrived in time. */
export class RequestTimeout extends WsrpcError {
  override name = "RequestTimeout"
}

/** The signal of the call was aborted. `cause` is the signal's reason. As for `fetch`, the name is `AbortError`. */
export class Aborted extends WsrpcError {
  override name = "AbortError"

  constructor(outcome: Outcome, reason: unknown) {
    super("the call was aborted", outcome)
    this.cause = reason
  }
}

/** The channel has ended, or a stream was read too slowly. */
export class ChannelClosed extends WsrpcError {
  override name = "ChannelClosed"
}

/**
 * The message was not sent: too many messages wait for a connection, it is larger than the server accepts, or the server
 * would ignore its key.
 */
export class Refused extends WsrpcError {
  override name = "Refused"

  constructor(message: string) {
    super(message, "not_sent")
  }
}
