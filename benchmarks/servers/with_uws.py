"""What one writes by hand over uWebSockets, a library in C++: PyPI has it with Python in `socketify`."""

from __future__ import annotations

import os
import socket
import sys
import threading
from contextlib import suppress
from typing import Any

import msgspec
from socketify import App, OpCode

from . import handlers
from .handlers import HOST, LARGEST_MESSAGE, TICK, Options, say_port

TOPIC = "ticks"


def listening(config: Any) -> None:
    """Turn Nagle's algorithm off, which this build leaves on: connections inherit it from the listening socket."""
    for number in os.listdir("/proc/self/fd"):
        with suppress(OSError), socket.socket(fileno=os.dup(int(number))) as sock:
            if sock.getsockname()[1:2] == (config.port,):
                sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    say_port(config.port)


def serve(options: Options) -> None:
    app = App()

    def broadcast() -> int:
        app.publish(TOPIC, msgspec.json.encode({"a": ["tick", TICK]}), OpCode.TEXT)
        return 1

    answers: dict[str, Any] = {"add": handlers.add, "echo": handlers.echo, "broadcast": broadcast}

    def message(connection: Any, text: str, opcode: Any) -> None:
        request = msgspec.json.decode(text)
        name, *arguments = request["a"]
        connection.send(msgspec.json.encode({"i": request["i"], "d": answers[name](*arguments)}), OpCode.TEXT)

    events = {"open": lambda connection: connection.subscribe(TOPIC), "message": message}
    app.ws("/*", {"max_payload_length": LARGEST_MESSAGE, "max_backpressure": 2**30, **events})
    app.listen({"host": HOST, "port": 0}, listening)
    threading.Thread(target=lambda: (sys.stdin.read(), os._exit(0)), daemon=True).start()
    app.run()
