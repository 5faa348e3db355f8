"""Makes the call of docs/how-to/see-what-happens.md, and draws its trace as docs/images/trace.svg.

Run it in the root folder: ``python -m scripts.trace_picture``. It needs Node, for the page.
"""

from __future__ import annotations

import asyncio
import json
import re
import socket
from asyncio.subprocess import PIPE
from collections.abc import AsyncGenerator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, NamedTuple

import uvicorn
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import SpanKind, format_span_id

from benchmarks.report import plots
from interop.node import find_node
from wsrpc_adapters.opentelemetry import instrument
from wsrpc_adapters.uvicorn import WebSocketProtocol

ROOT = Path(__file__).parent.parent
GUIDE = ROOT / "docs" / "how-to" / "see-what-happens.md"
PICTURE = ROOT / "docs" / "images" / "trace.svg"
PROCESSES = ("page", "service", "device")
COLOURS = (2, 1, 3)

PAGE = """\
import { webcrypto } from "node:crypto"
import WebSocket from "ws"
const [module, url] = process.argv.slice(1)
const { Client } = await import(module)

const hex = (bytes) => Buffer.from(webcrypto.getRandomValues(new Uint8Array(bytes))).toString("hex")
const now = () => performance.timeOrigin + performance.now()
const client = new Client(url, { WebSocket })
let span
client.useOutgoing(async (call, next) => {
  span = { id: hex(8), name: call.event, start: now() }
  call.metadata.traceparent = `00-${hex(16)}-${span.id}-01`
  const result = await next()
  span.end = now()
  return result
})
const call = async () => {
GUIDE}
await call()
await call() // the first call includes the time to connect
console.log(JSON.stringify(span))
client.close()
"""
"""The page. It makes its span without the SDK of OpenTelemetry."""


class Step(NamedTuple):
    """A span of the trace. Times are in milliseconds since the epoch."""

    id: str
    name: str
    process: str
    depth: int
    start: float
    end: float


def programs(port: int) -> tuple[dict[str, Any], str]:
    """Return what the first two programs of the guide define, the service and the device, and the call in the page."""
    blocks = re.findall(r"^```(python|js)\n(.*?)^```$", GUIDE.read_text("utf-8"), re.DOTALL | re.MULTILINE)
    (_, service), (_, device), (_, call) = blocks[:3]
    names: dict[str, Any] = {"__name__": "guide"}
    exec(compile(service, str(GUIDE), "exec"), names)
    exec(compile(device.replace("127.0.0.1:8000", f"127.0.0.1:{port}"), str(GUIDE), "exec"), names)
    return names, PAGE.replace("GUIDE", call)


@asynccontextmanager
async def serving(app: Any, sock: socket.socket) -> AsyncGenerator[None]:
    """Serve the application of the guide with uvicorn, in this event loop."""
    server = uvicorn.Server(uvicorn.Config(app, ws=WebSocketProtocol, log_config=None))
    task = asyncio.create_task(server.serve([sock]))  # connections wait in the socket until it has started
    try:
        yield
    finally:
        server.should_exit = True
        await task


async def measure() -> list[Step]:
    """Make the call, and return the steps of its trace: each after its parent."""
    exporter = InMemorySpanExporter()
    provider = TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    with socket.create_server(("127.0.0.1", 0)) as sock:
        port = sock.getsockname()[1]
        names, page = programs(port)
        instrument(names["server"], tracer_provider=provider)
        instrument(names["device"], tracer_provider=provider)
        async with serving(names["app"], sock), names["device"]:
            module = (ROOT / "wsrpc" / "browser" / "client.js").as_uri()
            words = (find_node(), "--input-type=module", "-e", page, module, f"ws://127.0.0.1:{port}/ws?user=ada")
            node = await asyncio.create_subprocess_exec(*words, cwd=ROOT / "interop" / "js", stdout=PIPE)
            out, _ = await node.communicate()
    span = json.loads(out)
    first = Step(span["id"], span["name"], PROCESSES[0], 0, span["start"], span["end"])
    return [first, *_below(first, exporter.get_finished_spans(), 0)]


def _below(step: Step, spans: Sequence[ReadableSpan], process: int) -> list[Step]:
    """Return the steps inside ``step``. A span of kind SERVER begins the part of the next process."""
    found: list[Step] = []
    for span in sorted(spans, key=lambda span: span.start_time or 0):
        if span.parent is not None and format_span_id(span.parent.span_id) == step.id:
            of = process + (span.kind is SpanKind.SERVER)
            start, end = (span.start_time or 0) / 1e6, (span.end_time or 0) / 1e6
            inner = Step(format_span_id(span.context.span_id), span.name, PROCESSES[of], step.depth + 1, start, end)
            found += [inner, *_below(inner, spans, of)]
    return found


def picture(steps: Sequence[Step]) -> str:
    """Return the picture as SVG."""
    since = steps[0].start
    colours = dict(zip(PROCESSES, COLOURS, strict=True))
    spans = [
        plots.Span(step.name, colours[step.process], step.depth, step.start - since, step.end - since) for step in steps
    ]
    legend = dict(zip(COLOURS, PROCESSES, strict=True))
    return plots.waterfall("One call: a page asks a service, which asks a device", legend, spans)


async def main() -> None:
    """Make the call, and draw the picture."""
    PICTURE.write_text(picture(await measure()), "utf-8")


if __name__ == "__main__":
    asyncio.run(main())
