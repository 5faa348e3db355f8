"""A WebSocket protocol for uvicorn, whose connections a `wsrpc.Server` takes over; and `serve`, which runs uvicorn.

    wsrpc serve module:app --workers 4
    uvicorn module:app --ws wsrpc_adapters.uvicorn:WebSocketProtocol

The application does not change: `wsrpc_adapters.asgi` finds the extension that this protocol offers, and takes over the
connection once it has accepted it (see ``wsrpc.adapting``). uvicorn itself serves all other WebSockets of the
application. See docs/how-to/frameworks.md.
"""

from __future__ import annotations

import asyncio
import logging
import math
from collections.abc import Callable
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any
from weakref import ref

from wsrpc import CloseCode, Handshake
from wsrpc.adapting import Health, ServerUpgrade, check_number, sanitize, unread
from wsrpc.types import WebSocketTransport

from .asgi import EXTENSION, TakeOver

NEEDS_UVICORN = "wsrpc_adapters.uvicorn needs uvicorn 0.53 or later: pip install 'python-wsrpc[uvicorn]'"

try:
    import uvicorn
    from uvicorn.protocols.utils import ClientDisconnected
    from uvicorn.protocols.websockets.websockets_sansio_impl import WebSocketsSansIOProtocol
except ImportError as exc:
    raise ImportError(NEEDS_UVICORN) from exc

if not hasattr(WebSocketsSansIOProtocol, "stop_keepalive"):
    raise ImportError(NEEDS_UVICORN)

if TYPE_CHECKING:
    from uvicorn._types import ASGIReceiveEvent, ASGISendEvent
    from websockets.http11 import Request

__all__ = ["LogFilter", "WebSocketProtocol", "serve"]

EXTENSIONS = "Sec-WebSocket-Extensions"
NOT_ACCEPTED = (
    "the connection is taken over before uvicorn has got websocket.accept: a middleware that keeps this message back "
    "has to remove the offer from the scope, by scope['extensions'].pop('wsrpc', None)"
)

NO_HANDSHAKE = "the opening handshake is not valid; it must not have a body\n"


def serve(
    app: str,
    *,
    workers: int | None = None,
    drain_timeout: float = 20.0,
    health_path: str | None = None,
    docs: bool = False,
    **options: Any,
) -> None:
    """Run an ASGI application under uvicorn, with `WebSocketProtocol`, until the process receives a signal.

    This process supervises the workers, which are other processes, and keeps the listening socket open. The command
    ``wsrpc serve`` calls this function.

    - SIGTERM or Ctrl-C drains all servers of the application (see `Server.close`), and then ends. A second signal
      closes all connections immediately.
    - SIGHUP replaces the workers, one after another. Each new worker imports the application again, and serves before
      an old one begins to drain. If a new worker cannot start, this is logged, and the old workers stay.
    - A worker that dies is started again. If workers die often, the delay grows to 30 seconds.

    Call this function in the main thread, below ``if __name__ == "__main__":``.

    Args:
        app: module and name of the application, such as ``"app:app"``. It may also be a `Server`, which then serves
            every path.
        workers: the number of workers. By default, the variable ``WEB_CONCURRENCY``, or 1.
        drain_timeout: the maximum time that active work has to finish, in seconds.
        health_path: the path at which health checks are answered, whatever the application has there. By default, they
            are answered at ``/healthz``, unless the application has a route there.
        docs: whether a `Server` has the page of `wsrpc_adapters.asgi.docs` at ``/docs``.
        options: options of ``uvicorn.Config``, such as ``host`` and ``port``.

    Raises:
        RuntimeError: the application cannot be imported, or does not start.
        OSError: the address is in use, or cannot be listened on.
        TypeError, ValueError: an option is not valid.
    """
    # Not at the top, because a process that does not call this function needs none of it.
    from ._supervisor import Supervisor, bind
    from ._worker import WorkerSettings

    if not isinstance(app, str):  # pyright: ignore[reportUnnecessaryIsInstance]
        raise TypeError(
            f"serve() takes the name of an application, such as 'app:app': each worker imports it; got {app!r}"
        )
    if options.get("reload"):
        raise ValueError("serve() does not reload: while you develop, use `uvicorn --reload`")
    check_number("drain_timeout= is a number of seconds, 0 or more", drain_timeout, 0)
    if math.isinf(drain_timeout):
        raise ValueError("drain_timeout= is a number of seconds, and has an end")
    if health_path is not None:
        Health(health_path, bool, bool)
    options = {"ws": WebSocketProtocol, **options, "workers": workers}
    config = uvicorn.Config(app, **options)
    count = config.workers if workers is None else workers
    check_number("workers= or WEB_CONCURRENCY is a number, 1 or more", count, 1)
    listener, address = bind(config)
    inode = Path(config.uds).stat().st_ino if config.uds else 0
    try:
        with listener:
            listener.listen(config.backlog)
            settings = WorkerSettings(app, options, drain_timeout, health_path, docs)
            Supervisor(settings, config.workers, listener, address).run()
    finally:
        if config.uds and Path(config.uds).exists() and Path(config.uds).stat().st_ino == inode:
            Path(config.uds).unlink()


class LogFilter(logging.Filter):
    """Filter for handlers of a log, such as that of uvicorn, which otherwise has the queries of URLs with their tokens.

    It replaces queries and passwords in URLs by ``…``, makes each text one short line, and gives each record the extra
    fields of wsrpc. Name it in a logging configuration: ``{"()": "wsrpc_adapters.uvicorn.LogFilter"}``.

    Args:
        omit_none: whether to remove the fields that are None, which lines in JSON would show as null. A format string
            with a field needs its default then: ``logging.Formatter(..., defaults={"peer": "-"})``.
    """

    def __init__(self, name: str = "", *, omit_none: bool = False) -> None:
        super().__init__(name)
        self._omit_none = omit_none

    def filter(self, record: logging.LogRecord) -> bool:
        """Change ``record``. Returns True."""
        return sanitize(record, omit_none=self._omit_none)


class WebSocketProtocol(WebSocketsSansIOProtocol):
    """Protocol class for uvicorn. An object serves one WebSocket until a wsrpc server takes over the connection.

    Pass this name to uvicorn: ``--ws wsrpc_adapters.uvicorn:WebSocketProtocol``, or as ``ws=`` to `uvicorn.run`.
    The protocol stays in uvicorn's list of connections until the connection ends, so that uvicorn closes the connection
    when it shuts down.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._early_bytes: bytes | None = None
        """Bytes that arrived after the request, until the application has answered. None when uvicorn has got them."""
        self._offered: dict[str, Any] = {}
        """The extension in the scope. It is emptied at the end, so that nothing waits for the garbage collector."""
        self._upgrade: ServerUpgrade | None = None
        """The upgrade for which the connection is reserved."""
        self._underlying: object = None
        self._handed_over: WebSocketTransport | None = None
        """The transport that has taken over the connection. None before and after that."""
        self._over = False
        """Whether the transport that has taken over the connection has ended."""
        self._lost: Callable[[], None] | None = None
        """Function to call when the connection ends after it was taken over. None before and after that."""
        self._first_queue = ref(self.queue)

    # ------------------------------------------------------------ until the application has answered

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)
        self._http = self.transport.get_protocol()
        """uvicorn's HTTP protocol, until it knows of the end."""

    def handle_connect(self, event: Request) -> None:
        super().handle_connect(event)
        if self.response.status_code == 101:  # else uvicorn has refused the request
            self._early_bytes = b""
            self._offered["reserve"] = self._reserve
            self._offered["certificate"] = self.transport.get_extra_info("peercert")
            scope: Any = self.scope
            scope["extensions"][EXTENSION] = self._offered

    def data_received(self, data: bytes) -> None:
        if self._early_bytes is None:
            super().data_received(data)
            if self.conn.handshake_exc is not None and not self.transport.is_closing():
                # The request has a body, a line that is too long, or too many headers. uvicorn 0.54 does not answer
                # such a request, and would raise an exception when it shuts down. `websockets` answers some of them.
                answer = unread(self.conn, self.transport) or self.conn.reject(400, NO_HANDSHAKE).serialize()
                self.transport.write(answer)
                self.transport.close()
        else:
            # Most likely the response is on its way to the client, and the application will take over the connection
            # soon. Reading is paused, so that at most one read is kept of a client that does not wait for the response.
            self._early_bytes += data
            self.transport.pause_reading()

    def send(self, message: ASGISendEvent) -> Any:
        """Return the coroutine that sends ``message``.

        If uvicorn serves the connection itself, this is uvicorn's coroutine.
        """
        return super().send(message) if self._early_bytes is None else self._answer(message)

    async def _answer(self, message: ASGISendEvent) -> None:
        if self._lost is not None:
            raise RuntimeError(f"a wsrpc server has taken this connection over; it cannot send {message['type']!r}")
        if self._over:
            raise ClientDisconnected
        await super().send(message)
        # A middleware may accept and then close, to send a close code. uvicorn waits for the client's Close frame.
        if self.handshake_complete and (self._upgrade is None or self.close_sent):
            self._resume_uvicorn()
        if self.close_sent:
            # After a refusal with a body, uvicorn 0.54 does not record that it has answered, and would log an error.
            self.handshake_complete = True

    def _resume_uvicorn(self) -> None:
        """Pass the early bytes to uvicorn, which serves the connection itself."""
        early, self._early_bytes = self._early_bytes, None
        if early and not self.transport.is_closing():
            super().data_received(early)
            if not self.read_paused:
                self.transport.resume_reading()

    def connection_lost(self, exc: Exception | None) -> None:
        super().connection_lost(exc)
        self._offered.clear()
        self._end_http()

    def _end_http(self) -> None:
        """Report the end of the connection to uvicorn's HTTP protocol, which had the connection before.

        uvicorn 0.54 does not do this. With httptools, the protocol and its parser would wait for the garbage collector.
        """
        http, self._http = self._http, asyncio.BaseProtocol()
        http.connection_lost(ConnectionError())  # without an error, it would close the connection

    # ------------------------------------------------------------ the extension

    def _reserve(self, handshake: Handshake, underlying: object) -> TakeOver | None:
        """Reserve the connection, as `wsrpc_adapters.asgi.Reserve` says."""
        if self._upgrade is not None or self.handshake_complete or self.transport.get_write_buffer_size():
            return None  # in the last case, the client has not read an earlier response of uvicorn
        upgrade = ServerUpgrade(handshake)
        if upgrade.status != 101:
            return None  # a middleware has changed the request
        self._upgrade, self._underlying = upgrade, underlying
        # uvicorn must not compress: its settings may differ from those of this server. (A middleware may still send
        # messages before the connection is taken over.)
        self.conn.extensions.clear()
        headers, chosen = self.response.headers, upgrade.headers.get(EXTENSIONS)
        if EXTENSIONS in headers:
            del headers[EXTENSIONS]
        if chosen is not None:
            headers[EXTENSIONS] = chosen
        return self._hand_over

    def _hand_over(self, lost: Callable[[], None]) -> WebSocketTransport | None:
        """Make the transport of the connection, as `wsrpc_adapters.asgi.TakeOver` says."""
        assert self._upgrade is not None, "a reserved connection is taken over once"
        answered = self.handshake_complete or self.initial_response is not None
        if not (answered or self.transport.is_closing()):
            raise RuntimeError(NOT_ACCEPTED)
        if self._early_bytes is None or not self.handshake_complete or self.transport.is_closing():
            return None
        self.stop_keepalive()
        self._end_http()
        self._lost = lost
        early, self._early_bytes = self._early_bytes, b""
        transport = self._upgrade.take_over(self.transport, early, self._ended, underlying=self._underlying)
        self._handed_over = transport
        self._upgrade = self._underlying = None
        # uvicorn does not need these objects any more. If the client has offered compression, they have 50 KiB.
        vars(self.conn).clear()  # its parser refers to it
        del self.conn, self.request, self.response, self.queue
        return transport

    # ------------------------------------------------------------ once the connection is taken over

    @cached_property
    def queue(self) -> asyncio.Queue[ASGIReceiveEvent]:  # type: ignore[override]  # the attribute is also set, deleted
        # The queue of `receive` that uvicorn has created, or another queue if that queue was freed. From now on it gets
        # only the end of the connection. An empty queue is a tenth of the memory of an idle connection, so only an
        # application that waits in `receive` keeps the queue alive.
        return self._first_queue() or asyncio.Queue()

    def shutdown(self) -> None:
        if self._handed_over is not None:
            # uvicorn waits for its tasks, and cancels them after `timeout_graceful_shutdown`.
            closing = self.loop.create_task(self._handed_over.close(CloseCode.SERVICE_RESTART))
            closing.add_done_callback(self.on_task_complete)
            self.tasks.add(closing)
        elif not self.transport.is_closing():
            super().shutdown()
        # Otherwise uvicorn has closed the connection, but asyncio has not called `connection_lost` yet. uvicorn 0.54
        # would close again, which raises an exception. Then uvicorn would not shut down other connections and the
        # lifespan.

    def _ended(self, exc: Exception | None) -> None:
        self.connection_lost(exc)
        self._handed_over, self._over = None, True  # otherwise a circle would wait for the garbage collector
        lost, self._lost = self._lost, None
        if lost is not None:
            lost()
