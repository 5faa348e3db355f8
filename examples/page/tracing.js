// Traces the calls of a page with OpenTelemetry: `traceCalls(client)`. It needs the package @opentelemetry/api.

import { context, propagation, SpanKind, SpanStatusCode, trace } from "@opentelemetry/api"

const tracer = trace.getTracer("python-wsrpc")

async function traced(call, next) {
  const span = tracer.startSpan(call.event, { kind: SpanKind.CLIENT })
  propagation.inject(trace.setSpan(context.active(), span), call.metadata)
  try {
    return await next()
  } catch (error) {
    span.setStatus({ code: SpanStatusCode.ERROR, message: error.message })
    throw error
  } finally {
    span.end()
  }
}

export function traceCalls(client) {
  return client.useOutgoing((call, next) => (call.kind === "event" ? next() : traced(call, next)))
}
