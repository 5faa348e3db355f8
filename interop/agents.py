"""Starts and drives a peer of another language, in either role: ``js/agent.mjs`` or the program of ``go/``.

    async with Agent.start("ws-wrapper") as agent:
        url = (await agent.call("listen"))["url"]

Libraries of JavaScript: ``ws-wrapper`` (3.x), ``ws-server-wrapper`` (over its own ws-wrapper 2.x; it only listens) and
``ws-wrapper-4`` (4.x: cancellation, anonymous channels, streams). See `node.available_libraries`. ``plain-4`` is
no library but ``js/plain4.mjs``, which says on the wire what 4.x does and is there on every machine.

Of Go: ``go-coder`` and ``go-gorilla``, which play ws-server-wrapper-go 1.7 over two WebSocket libraries, and the real
one, where it is to be had: ``go-real-coder`` and ``go-real-gorilla``. See `golang.available_libraries`.

Commands of `Agent.call(command, **fields)`. Those on a connection take ``peer``, an index in order of
connection (default: the newest); ``channel`` is None for the main channel, a name, or ``{"$channel": key}``
for an anonymous one. A command that fails raises `AgentError`.

=============  ==========================================================================================
listen         ``port=0, path=, keep=False`` → ``{"port", "url"}``; on 127.0.0.1. With ``keep``, the wrapper of the
               first connection is bound to all later ones
connect        ``url, protocols=, sync=True`` → ``{"peer", "protocol"}`` once open. With ``peer``, that
               peer's wrapper, handlers kept, is bound to the new socket (how JavaScript reconnects). Without
               ``sync``, Node gives each message a turn of its own, as browsers do
emit           ``event, args=[], channel=``
request        ``event, args=[], channel=, timeout_ms=, ref=`` → when settled,
               ``{"resolved": value, "undefined": bool}`` or ``{"rejected": thrown}``. With ``cancel``, a reason,
               the request's signal is aborted as soon as it is sent (4.x)
cancel         ``ref, reason=``: aborts the request's signal (4.x)
answer         ``keys, fail=False``: has the ``wait`` handlers and the items of ``steps`` with those keys answer
iterate        ``event, args=[], take=, leave="abort", reason=, hold=, ask=, channel=``: for-await over the channel
               that a request brings → ``{"items", "rejected"?}``; after ``take`` items the loop is left, and
               the channel aborted, unless ``leave="break"``. With ``hold``, a name, the loop's body tells the
               journal (held: item) and waits for ``release``; with ``ask``, an event, it requests that with
               the item and 1 (4.x). Without ``event``, for-await over ``channel`` itself, which has a name
produce        ``channel, n``: has a handler of ``start`` on that named channel emit 0 to n - 1 there, as ``next``
release        ``hold``: lets the body of that ``iterate`` go on
upload         ``event, args=[], n=, channel=``: requests a channel and sends 0 to n - 1 on it by hand (no n:
               until the handler wants no more) → ``{"sent", "resolved" or "rejected"}`` (4.x)
exchange       the same, with a for-await over the channel beside it → ``{"items", "rejected"?}`` (4.x)
abort_channel  ``channel, reason=``: closes an anonymous channel and tells the other side
send_raw       ``data, binary=False``: a message that is not the library's, text or its UTF-8 in binary
close          ``code=, reason=``: the closing handshake begins
terminate      the socket is destroyed
state          → ``{"peers", "connected", "pending", "active", "channels"}``; counts are None where the library
               has none; channels are the anonymous ones that the agent requested or made, still open
events         ``kind=, peer=, at_least=0`` → takes the journal's entries (of that kind, of that peer; by
               default of any), oldest first, waiting until there are that many
set            ``middleware="refuse" | None`` (rejects every event and request), ``error_props=bool`` (errors
               cross with all their fields; what JavaScript does
               by default under Node is to send the message alone), ``messages=bool`` (the journal gets each
               message that arrives), ``calls=bool`` (the other side is told of each call of a handler below by an
               event ``called(channel, event, args)``, an anonymous channel being ``{"h": id}``)
exit           ends the agent; leaving the block does that too
=============  ==========================================================================================

Handlers that every peer has, on the main channel, on "math" and on anonymous channels: ``echo(value)``,
``args(*args)``, ``add(a, b)``, ``nothing()`` (undefined), ``nil()`` (null), ``blob(n)``, ``size(text)``, ``hang()``
(journal: started; in 4.x aborted), ``wait(key)`` → key when `answer` says so (journal: started), or ``wait(key,
"channel")`` → an anonymous channel, ``fail(kind)`` with kind "error"
(message "it failed", fields code and detail), "type", "async", "string", "object", "null" or "undefined",
``ask(event, *args)`` (requests this side on the same channel and returns the answer), ``askMany(event, n)``
(``event(k, 1)`` n times at once → list), ``log(*args)`` (journal: event). In 4.x also ``channel_make()`` (answers
with an anonymous channel), ``channel_talk(n)`` (and emits ``line`` n times on it at once), the streams ``count(n)``,
``steps(keys)`` (see `answer`), ``count_list(n)``, ``count_then_fail(n)`` and ``ticks(ms)``, which is endless, and
``total({enough, wrong, abort})``, which sums up what the requestor sends: it says ``stop`` once it has enough, and at
the item ``wrong`` it fails, or aborts the channel. ``doubled()`` streams twice what it is sent.

Go has the same commands and handlers, but for ``load``, ``exchange``, ``release``, ``produce``, ``answer`` and what
answers then, ``calls``, ``protocols`` and ``keep``, what middleware and further fields of errors need, and a closing
without a code. Its ``total`` takes all there is. In Go a handler takes a fixed number of arguments; those above that
take any number get one list there, which the agent makes of them before the library sees the message. Events of
``log`` are taken from the messages themselves, in order, because each handler has a goroutine of its own. ``listen``
and ``connect`` take ``read_limit=``, bytes of a message, for the WebSocket library's own. ``events`` of kind close
have what the library tells its users: always 1011 if the other side has closed, and its code in the reason's text.
Things thrown are always errors, and named "context.Canceled", "context.DeadlineExceeded" or "error".
Go alone has ``nils()`` (an object of a nil slice, map and bytes, and of an empty slice), ``when(time)`` → time,
``twice(duration)`` → duration, and ``variadic(list ...int)``, which ends the program.

Journal entries are dicts with ``kind`` and ``peer``: open; close (code, reason, clean); error (message);
event (channel, event, args); started (channel, event); aborted (channel, event, reason: thrown); channel
(channel: an anonymous one was made or received); channel_closed (channel, reason: thrown); stream_ended
(sent: number of items); held, sent, taken (item); tallied (channel, item); message (data).

"thrown" is ``{"is_error", "name", "message", "value", "props"}``: message and props (further own fields)
for an Error, value for anything else. What JSON lacks is written ``{"$undefined": True}``,
``{"$number": "NaN"}``, ``{"$error": {"message": ..., ...}}`` and ``{"$channel": key}``; all but the last
may also be sent, for instance as a cancel reason.

Beware: JavaScript can put handlers on a channel that it requested only after the answer has arrived, so
its ws-wrapper loses events that come in the same read as the channel. Let JavaScript speak first on it.
"""

from __future__ import annotations

import asyncio
import itertools
import json
from collections import deque
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from typing import Any

from interop import golang, node

CALL_TIMEOUT = 60.0
"""Seconds that a command may take, ``events(at_least=...)`` included."""
EXIT_TIMEOUT = 60.0
"""Seconds that an agent has for leaving by itself, before it is killed."""
LINE_LIMIT = 64 * 1024 * 1024
"""Bytes in one line from the agent: large values cross in one piece."""


class AgentError(Exception):
    """A command failed over there, or the agent itself did.

    ``name`` and ``message`` are those of the other language's error where there is one.
    """

    def __init__(self, message: str, name: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.name = name


class Agent:
    """One running program. Made by `start`; ``library`` and ``version`` say what it plays."""

    def __init__(self, process: asyncio.subprocess.Process, library: str) -> None:
        self.library = library
        self.version = ""
        self.can: frozenset[str] = frozenset()
        """What not all have: "cancels", "anonymous", "middleware", "fields" (errors are more than a message), "foreign"
        (what is no message of the library is ignored), "binary" (JSON in a binary message is read like text), "codes"
        (it learns the code that the other side closes with) and "drops" (what is pending fails when the connection
        ends)."""
        self.logs: list[dict[str, Any]] = []
        """What the agent reported without being asked: rejections that nobody handled."""
        self._process = process
        self._ids = itertools.count(1)
        self._answers: dict[int, asyncio.Future[Any]] = {}
        self._ready: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._stderr: deque[str] = deque(maxlen=40)
        self._ended = False

    @classmethod
    @asynccontextmanager
    async def start(cls, library: str) -> AsyncGenerator[Agent]:
        """Runs an agent for the length of the block; raises AgentError if it does not come up."""
        language = golang if golang.plays(library) else node
        command = await asyncio.to_thread(language.command, library)  # the first time it may have to be built
        process = await asyncio.create_subprocess_exec(
            *command,
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
            limit=LINE_LIMIT,
        )
        agent = cls(process, library)
        reader = asyncio.create_task(agent._read())
        try:
            await agent._within_time(agent._ready, "start")
            yield agent
        finally:
            await agent._stop(reader)

    async def call(self, command: str, **fields: Any) -> Any:
        """The answer to one command; many may be under way. Safe to cancel: the agent then goes on unheard.

        Raises AgentError if the command fails, takes longer than CALL_TIMEOUT or the agent has ended.
        """
        if self._ended:
            raise self._end_error()
        assert self._process.stdin is not None
        number = next(self._ids)
        answer: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        self._answers[number] = answer
        try:
            line = json.dumps({"id": number, "command": command, **fields}) + "\n"
            self._process.stdin.write(line.encode())
            return await self._within_time(answer, command)
        finally:
            del self._answers[number]

    async def _within_time(self, answer: asyncio.Future[Any], what: str) -> Any:
        try:
            async with asyncio.timeout(CALL_TIMEOUT):
                return await answer
        except TimeoutError:
            raise AgentError(self._tell(f"no response to '{what}' within {CALL_TIMEOUT:g} s")) from None

    async def _read(self) -> None:
        """Reads both outputs to their end, which is the end of the agent."""
        assert self._process.stdout is not None
        async with asyncio.TaskGroup() as group:
            group.create_task(self._read_stderr())
            async for line in self._process.stdout:
                self._take(line)
        await self._process.wait()
        self._ended = True
        for waiting in (self._ready, *self._answers.values()):
            if not waiting.done():
                waiting.set_exception(self._end_error())
                # The one who waited may be gone; asyncio would complain that nobody looked.
                waiting.exception()

    async def _read_stderr(self) -> None:
        assert self._process.stderr is not None
        async for line in self._process.stderr:
            self._stderr.append(line.decode(errors="replace").rstrip())

    def _take(self, line: bytes) -> None:
        message: dict[str, Any]
        try:
            message = json.loads(line)
        except ValueError:
            # Something in the process printed; it must not stop the answers, and may explain a failure.
            message = {"log": "not JSON", "text": line.decode(errors="replace").rstrip()}
        if "log" in message:
            self.logs.append(message)
        elif "ready" in message:
            self.version = message["ready"]["version"]
            self.can = frozenset(message["ready"]["can"])
            if not self._ready.done():
                self._ready.set_result(None)
        elif (answer := self._answers.get(message["id"])) is not None and not answer.done():
            if "error" in message:
                error = message["error"]
                answer.set_exception(AgentError(error["message"] or repr(error["value"]), error["name"]))
            else:
                answer.set_result(message["ok"])

    def _end_error(self) -> AgentError:
        return AgentError(self._tell(f"the agent ended with status {self._process.returncode}"))

    def _tell(self, what: str) -> str:
        lines = [f"{self.library}: {what}", *self._stderr, *(json.dumps(log) for log in self.logs)]
        return "\n".join(lines)

    async def _stop(self, reader: asyncio.Task[None]) -> None:
        assert self._process.stdin is not None
        self._process.stdin.close()  # the agent's sign to leave
        try:
            async with asyncio.timeout(EXIT_TIMEOUT):
                await self._process.wait()
        except TimeoutError:
            pass
        finally:
            if self._process.returncode is None:
                self._process.kill()
        await self._process.wait()
        await reader
