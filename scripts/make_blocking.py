"""Writes ``wsrpc/blocking/_classes.py``: the blocking classes, made of the asynchronous ones.

    python scripts/make_blocking.py          # after a change of a public method in the asynchronous classes
    python scripts/make_blocking.py --check  # whether the file is what this would write: 0 or 1

Names, signatures, overloads and docstrings are those of the asynchronous classes. An ``async def`` becomes a ``def``,
and each body calls the method of the same name in the thread of the event loop. What a rule below has to say about a
method is in one of the tables, and a rule that applies nowhere is an error.
"""

from __future__ import annotations

import ast
import inspect
import re
import subprocess
import sys
import textwrap
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).parent.parent
MADE = ROOT / "wsrpc" / "blocking" / "_classes.py"
WIDTH = 120

Function = ast.FunctionDef | ast.AsyncFunctionDef


class Source(NamedTuple):
    """One asynchronous class, of which a blocking one is made."""

    module: str
    name: str
    left_out: tuple[str, ...] = ()


CLASSES = [
    Source("_api/events", "EventReader"),
    Source("_api/caller", "Caller"),
    Source("_api/caller", "ReadingCaller"),
    Source("_api/caller", "RawCaller"),
    # Middleware awaits what it wraps, so it belongs to the event loop.
    Source("_api/registration", "Registrar", ("use",)),
    Source("_api/registration", "Declarer"),
    Source("_api/peer", "RawRegistrar"),
    Source("_api/channel", "Channel"),
    Source("_api/anonymous", "AnonymousChannel", ("use", "implement")),
    # A transport belongs to an event loop, and the others are for a server's peers.
    Source("_api/peer", "Peer", ("transport", "bind", "wait_opened", "server", "rooms", "home_room", "address")),
    # A router may hold coroutine functions and middleware; `bind` takes a transport.
    Source("_client/client", "Client", ("include", "bind")),
    Source("_cluster/calls", "ClusterPeer"),
    Source("_cluster/calls", "ClusterPeerChannel"),
    Source("_cluster/cluster", "ClusterView"),
    Source("_cluster/cluster", "ClusterEmitter"),
    Source("_cluster/cluster", "ClusterRoom"),
    Source("_cluster/cluster", "ClusterRoomChannel"),
    Source("_cluster/cluster", "ClusterClient"),
]
"""Base classes first."""

NAMES = {source.name for source in CLASSES}

RENAMED = {"__aenter__": "__enter__", "__aexit__": "__exit__", "__aiter__": "__iter__"}

HERE = {"stream", "get", "set", "stats", "locate", "peer", "room", "ClusterPeer.of", "ClusterRoom.of"}
"""Plain methods that only look at something, or make an object: they are called in the caller's thread."""

ANYWHERE = {"of", "declare", "on_raw", "on_reconnect"}
"""Plain methods that need no event loop, but must not run beside one."""

REQUESTS = {"Caller.request": "send is not None or retry is not None", "AnonymousChannel.request": "send is not None"}
"""Methods that make a single request, and when they make more than that."""

LEFT_OUT_PARAMETERS = {
    "on": ("thread", "timeout"),  # every handler runs in a thread, and a thread cannot be stopped
    "once": ("thread", "timeout"),
    "Client.__init__": ("transport",),  # it belongs to an event loop
}

ARGUMENTS = {
    "send": "upload(send)",
    "skip": "inner_of(skip)",
    "url": "per_attempt(url)",
    "headers": "per_attempt(headers)",
    "auth": "per_attempt(auth)",
}
"""What is passed on in place of an argument."""

ANNOTATIONS = {"Source | None": "Iterable[Any] | None", "_MISSING": "MISSING"}

BODIES = {
    "Caller.proxy": """
made: T = make_proxy(contract, self._inner, self._portal)
return made""",
    "Caller.emitter": """
made: T = make_emitter(contract, self, takes_offline=True)
return made""",
    "AnonymousChannel.emitter": """
made: T = make_emitter(contract, self)
return made""",
    "ClusterEmitter.emitter": """
made: T = make_emitter(contract, self, skip=kept(skip))
return made""",
    "Registrar.on": """
convert = partial(blocking_form, portal=self._portal)
options = {"lax": lax, "ordered": ordered, "hidden": hidden}
return register(self._inner, self._portal, "on", event, handler, convert, **options)""",
    "Registrar.once": """
convert = partial(blocking_form, portal=self._portal)
return register(self._inner, self._portal, "once", event, handler, convert, lax=lax, hidden=hidden)""",
    "Registrar.implement": "implement(self._inner, self._portal, contract, implementation)",
    "RawRegistrar.on_raw": """
check_plain(function, "a function of on_raw")
convert = partial(blocking_form, portal=self._portal)
self._apply(self._inner.on_raw, in_a_thread(function, convert))
return function""",
    "Client.on_reconnect": """
check_plain(function, "a function of on_reconnect")
self._apply(self._inner.on_reconnect, in_a_thread(function))
return function""",
    "Client.peer": "return Peer(self._inner.peer, self._portal)",
    "Client.__aenter__": "self._enter()\nreturn self",
    "Client.__aexit__": "self.close()",
    "Client.connect": "self._portal.open()\nself._run(self._inner.connect)",
    "Client.close": "self._close(partial(self._inner.close, code, reason))",
    "ClusterClient.__aenter__": "self._enter()\nreturn self",
    "ClusterClient.__aexit__": "self._close(partial(self._inner.__aexit__, None, None, None))",
    "Channel.__aiter__": "return self.items()",
    "AnonymousChannel.__aiter__": "return self.items()",
    "AnonymousChannel.__aenter__": "return self",
    "AnonymousChannel.__aexit__": "self._settle(partial(self._inner.__aexit__, kind, error, traceback))",
    "AnonymousChannel.close": "self._settle(partial(self._inner.close, reason))",
    "AnonymousChannel.abort": "self._settle(partial(self._inner.abort, reason))",
}

ATTRIBUTES = {
    "AnonymousChannel": [
        ("id", "int", "The id of the request that opened the channel. Messages on the channel contain this id.")
    ],
    "Peer": [
        ("id", "str", "The peer's name in logs."),
        ("state", "PeerState", "A mapping for your application's data; see `Key`."),
        ("principal", "object", "The user, as `on_handshake` has set it."),
        (
            "ignored",
            "Counter[str]",
            "The numbers of ignored messages, by kind; see `wsrpc.Peer`.",
        ),
    ],
    "ClusterPeer": [("address", "str", "The peer's address, as `Handshake.address` has set it.")],
    "ClusterPeerChannel": [("address", "str", "The peer's address.")],
}
"""Attributes of the asynchronous classes, with their types."""

ROOTS = {"Client": "client_portal", "ClusterClient": "cluster_portal"}
"""Classes that users make, and the function that makes the way into their event loop."""

BASES = {"Client": "ClientRoot", "ClusterClient": "ClusterRoot"}
"""Hand-written base classes, in place of `Delegate`."""

DOCSTRINGS = {
    "Peer": "The local end of the client's connections. `Client.peer` returns it, and lifecycle handlers get it.",
    "Peer.of": """Return the named channel of this peer.

    Args:
        ordered: whether the handlers that you register on the channel after this call run one at a time.
    """,
    "Peer.limits": """The limits of the connection.""",
    "ClusterView": "The peers and the processes of a cluster.",
}
"""Docstrings that are not those of the asynchronous classes."""

INTERRUPTED = "Ctrl-C cancels the handler on the remote peer, and then raises KeyboardInterrupt."

RECONNECTED = "Call ``function(info)`` in a thread on each connection except the first."

SENTENCES = [
    # Cancelling.
    (r"Cancelling is safe\. It also cancels the handler on the remote peer\. The handler gets .*", INTERRUPTED),
    (r"Cancelling is safe, and cancels the handler on the remote peer\.", INTERRUPTED),
    (r"Cancelling stops dialing, unless another caller", "Ctrl-C stops dialing, unless another thread"),
    (
        r", or after `bind`, the client continues to dial even if this call is cancelled",
        ", the client continues to dial even if this call is interrupted",
    ),
    (r" ?Cancelling is safe(: [^.]*)?\.", ""),
    (r"If this call is cancelled, some", "If this call is interrupted, some"),
    # Statements.
    (r"``async (with|for) ", r"``\1 "),
    (r"with ``aclose\(\)``, at the end of ``async with``", "with ``close()``, at the end of ``with``"),
    (r"use ``async with``", "use ``with``"),
    (r"``await client\.", "``client."),
    (r": await shop\.", ": shop."),
    (r"``async def (say|talk)", r"``def \1"),
    (r"A parameter ``AsyncIterable", "A parameter ``Iterable"),
    # Waiting.
    (
        r"Waiting begins at the call, not at the ``await``\. You can therefore call `wait_for`, .*? in response\.",
        "To send something and then read the event that the remote peer sends in response, call `events` first.",
    ),
    (r"counted from the ``await``", "counted from the call"),
    (r"an iterable or async iterable of items", "an iterable of items"),
    (r"(annotated ``AsyncIterator\[\.\.\.\]``)\. The items", r"\1. The iterable is read in a thread. The items"),
    (r"(Send .*) without waiting, from a plain function in the event loop's thread\.", r"\1 without waiting."),
    # Threads.
    (r"RuntimeError: called in (another thread than|a thread other than) .*", ""),
    (r"TypeError, ValueError, RuntimeError: as for `(events|send_raw)`", r"TypeError, ValueError: as for `\1`"),
    (
        r"(Register the handler of an event, .*removes the handler\.)",
        r"\1 The handler is a plain function, and runs in a thread.",
    ),
    (
        r"TypeError: the function cannot be a handler",
        "TypeError: the function is an ``async def``, or cannot be a handler",
    ),
    (r"ValueError: ``timeout`` is not more than 0, the event", "ValueError: the event"),
    (r"Middleware of a server.*| Readers get an event before middleware and handlers do\.", ""),
    (r", middleware rejects the message, there are too many channels,", ", there are too many channels,"),
    (r" While middleware is processing a message for this handler, .*? do not reach the handler\.", ""),
    (r"The function may be async\. It then handles", "The function runs in a thread, and handles"),
    (r" Middleware runs around the function, with an empty ``ctx\.event``\.", ""),
    (r"Register ``function\(info\)``, sync or async, for each connection except the first\.", RECONNECTED),
    (r"takes longer in a task", "takes longer in another thread"),
    (
        r"The functions are cancelled if the session ends\.",
        "If the session ends, a function that is running continues to its end, and the remaining functions are not "
        "called.",
    ),
    (
        r"Request handlers that are still running are cancelled, .*? have `Limits\.close_timeout` seconds to finish\.",
        "Handlers run in threads, which cannot be stopped, so a handler that is still running continues to its end. "
        "This method waits at most `Limits.close_timeout` seconds for handlers of events, and does not wait for "
        "request handlers, whose results are dropped.",
    ),
    (
        r"`ChannelClosed`, and (the handler whose body is the conversation is cancelled)\.",
        r"`ChannelClosed`. On the remote peer, \1. On this side, such a handler runs in a thread, and continues to its "
        "end.",
    ),
    (r"may be functions, sync or async, that are called for each attempt", "may be functions, called for each attempt"),
    (r" Without a URL, pass your own connections to `bind`\.", ""),
    (r"until `connect` or `bind` is called", "until `connect` is called"),
    # Contracts.
    (
        r"An ``async def`` of the contract does what `emit` does.*?(Both|The methods) are declared",
        "Each method is declared",
    ),
    (
        r"A plain ``def`` or an ``async def`` implements an ``async def`` of the contract, and an async generator",
        "A ``def`` implements a request of the contract, and a generator",
    ),
    (r" A conversation is implemented by a method that .*? or returns an ``AnonymousChannel``\.", ""),
]
"""Regular expressions, and what takes the place of a match in a docstring. Each is for a paragraph or an entry."""

ASYNCHRONOUS = re.compile(
    r"\b(a?wait(ed)?\b`|await|async|asynchronous|aclose|coroutine|event loop|task)\b|Cancel|cancelled"
)
"""Words that no docstring of a blocking method has, but for the sentences below."""

ALLOWED = [
    "is an ``async def``",
    "``for await (... of channel)``",
    "whose body is the conversation is cancelled",
    "or the request is cancelled",
]


# ---------------------------------------------------------------- docstrings


def units_of(text: str) -> Iterator[tuple[int, int, str]]:
    """Split a docstring into paragraphs and list entries: the indentation of the first line, that of further ones, and
    the text on one line. An empty line is an empty unit."""
    unit: tuple[int, int, str] | None = None
    section = False
    for line in inspect.cleandoc(text).splitlines():
        bare = line.strip()
        indent = len(line) - len(line.lstrip())
        begins_item = bare.startswith("- ")
        goes_on = (
            unit is not None
            and not begins_item
            and (indent >= unit[1] if unit[1] > unit[0] else indent == unit[0] and not unit[2].endswith(":"))
        )
        if bare and goes_on and unit is not None:
            unit = (unit[0], unit[1], f"{unit[2]} {bare}")
            continue
        if unit is not None:
            yield unit
        if not bare:
            section = False
            yield 0, 0, ""
            unit = None
            continue
        if re.fullmatch(r"(Args|Raises|Returns|Attributes):", bare):
            section = True
            yield indent, indent, bare
            unit = None
            continue
        unit = (indent, indent + (4 if section else 2 if begins_item else 0), bare)
    if unit is not None:
        yield unit


class Rules:
    """The rules for sentences, which remember whether they were of use."""

    def __init__(self, rules: Sequence[tuple[str, str]]) -> None:
        self._rules = [(re.compile(pattern), text) for pattern, text in rules]
        self.unused = {pattern for pattern, _ in rules}
        self.missing: list[str] = []
        """Docstrings that speak of the event loop after all rules."""

    def apply(self, text: str) -> str:
        for pattern, replacement in self._rules:
            text, count = pattern.subn(replacement, text)
            if count:
                self.unused.discard(pattern.pattern)
        return text.strip()


def docstring(text: str, indent: int, rules: Rules, drop: Iterable[str]) -> list[str]:
    """The lines of a docstring for the blocking method. ``drop``: arguments that it does not have."""
    lines: list[str] = []
    for first, rest, unit in units_of(text):
        if not unit:
            if lines and lines[-1]:
                lines.append("")
            continue
        changed = rules.apply(unit)
        if not changed or any(changed.startswith(f"{name}: ") for name in drop):
            continue
        lines += textwrap.wrap(
            changed,
            WIDTH - indent - 4,
            initial_indent=" " * first + ('"""' if not lines else ""),
            subsequent_indent=" " * rest,
            break_long_words=False,
            break_on_hyphens=False,
        )
    while not lines[-1]:
        lines.pop()
    if len(lines) == 1 and len(lines[0]) + indent + 7 <= WIDTH:
        lines[0] += '"""'
    else:
        lines.append('"""')
    whole = " ".join(line.strip() for line in lines)
    for text in ALLOWED:
        whole = whole.replace(text, "")
    if ASYNCHRONOUS.search(whole):
        rules.missing.append(whole)
    return [" " * indent + line if line else "" for line in lines]


# ---------------------------------------------------------------- signatures and bodies


def annotation(node: ast.expr | None) -> str:
    """The annotation of a blocking method."""
    if node is None:
        return ""
    text = ast.unparse(node)
    if found := re.fullmatch(r"Coroutine\[Any, Any, (.*)\]", text):
        text = found[1]
    return ANNOTATIONS.get(text, text)


def parameters(function: Function, left_out: Iterable[str]) -> str:
    """The parameters of a blocking method."""
    args = function.args
    for given in (*args.posonlyargs, *args.args, *args.kwonlyargs):
        if given.annotation is not None:
            given.annotation = ast.parse(annotation(given.annotation), mode="eval").body
    pairs = [
        (given, default)
        for given, default in zip(args.kwonlyargs, args.kw_defaults, strict=True)
        if given.arg not in left_out
    ]
    args.kwonlyargs = [given for given, _ in pairs]
    args.kw_defaults = [default for _, default in pairs]
    return ast.unparse(args).replace("_MISSING", "MISSING")


def passed_on(function: Function) -> str:
    """The arguments with which a method calls the asynchronous one."""
    args = function.args
    plain = [given.arg for given in (*args.posonlyargs, *args.args) if given.arg != "self"]
    found = [ARGUMENTS.get(name, name) for name in plain]
    if args.vararg is not None:
        found.append(f"*{args.vararg.arg}")
    found += [f"{given.arg}={ARGUMENTS.get(given.arg, given.arg)}" for given in args.kwonlyargs]
    if args.kwarg is not None:
        found.append(f"**{args.kwarg.arg}")
    return ", ".join(found)


def has_decorator(function: Function, name: str) -> bool:
    return any(ast.unparse(each).partition("(")[0] == name for each in function.decorator_list)


def body(source: Source, function: Function) -> list[str]:
    """The lines of the body of a method."""
    key = f"{source.name}.{function.name}"
    if key in BODIES:
        return BODIES[key].strip().splitlines()
    inner, given = f"self._inner.{function.name}", passed_on(function)
    if has_decorator(function, "property"):
        call = inner
    elif {function.name, key} & HERE:
        call = f"{inner}({given})"
    else:
        runner = "_apply" if function.name in ANYWHERE else "_run"
        if key in REQUESTS:
            runner = f"{runner} if {REQUESTS[key]} else self._ask"
            return [f"run = self.{runner}", f"return run({inner}, {given})"]
        call = f"self.{runner}({', '.join(filter(None, [inner, given]))})"
    result = annotation(function.returns)
    name = result.partition("[")[0]
    if result == "None":
        return [call]
    if name == "Stream":
        once = ", at_once=1" if function.name == "items" else ""
        return [f"return Stream({call}, self._portal{once})"]
    if name in NAMES:
        return [f"return {name}({call}, self._portal)"]
    if result == "Any":
        return [f"return {call}"]
    return [f"result: {result} = {call}", "return result"]


def method(source: Source, function: Function, rules: Rules) -> list[str]:
    """The lines of a method, of one overload of it, or of a property."""
    left_out = LEFT_OUT_PARAMETERS.get(function.name, ())
    name = RENAMED.get(function.name, function.name)
    lines = [f"@{ast.unparse(each)}" for each in function.decorator_list]
    head = f"def {name}({parameters(function, left_out)}) -> {annotation(function.returns)}:"
    if has_decorator(function, "overload"):
        return [*lines, f"{head} ..."]
    lines.append(head)
    text = DOCSTRINGS.get(f"{source.name}.{function.name}") or ast.get_docstring(function)
    if text is not None:
        lines += docstring(text, 4, rules, left_out)
    return [*lines, *(f"    {line}" for line in body(source, function))]


def is_public(function: Function) -> bool:
    return function.name in RENAMED or not function.name.startswith("_")


def constructor(source: Source, function: Function) -> list[str]:
    head = f"def __init__({parameters(function, LEFT_OUT_PARAMETERS.get(f'{source.name}.__init__', ()))}) -> None:"
    return [
        head,
        f"    inner = Async{source.name}({passed_on(function)})",
        f"    super().__init__(inner, {ROOTS[source.name]}(inner))",
    ]


def class_of(source: Source, tree: ast.Module, rules: Rules) -> list[str]:
    node = next(node for node in tree.body if isinstance(node, ast.ClassDef) and node.name == source.name)
    bases = [name for base in node.bases if (name := ast.unparse(base)) in NAMES]
    if source.name in BASES:
        bases.append(BASES[source.name])
    lines = [f"class {source.name}({', '.join(bases or ['Delegate'])}):"]
    text = [
        f"    {line}" if line else ""
        for line in docstring(
            DOCSTRINGS.get(source.name) or ast.get_docstring(node) or "",
            0,
            rules,
            LEFT_OUT_PARAMETERS.get(f"{source.name}.__init__", ()),
        )
    ]
    lines += [*text, ""]
    if source.name not in ROOTS:
        lines += ["    __slots__ = ()", ""]
    for name, kind, said in ATTRIBUTES.get(source.name, ()):
        lines += ["    @property", f"    def {name}(self) -> {kind}:", f'        """{said}"""']
        lines += [f"        value: {kind} = self._inner.{name}", "        return value", ""]
    missing = set(source.left_out)
    for function in walk(node):
        missing.discard(function.name)
        if function.name == "__init__" and source.name in ROOTS:
            made = constructor(source, function)
        elif (
            is_public(function)
            and function.name not in source.left_out
            and not has_decorator(function, "limits.setter")
        ):
            made = method(source, function, rules)
        else:
            continue
        lines += [*(f"    {line}" if line else "" for line in made), ""]
    if missing:
        raise SystemExit(f"{source.name} has no {', '.join(missing)} to leave out")
    return lines


def walk(node: ast.ClassDef) -> Iterator[Function]:
    for child in node.body:
        if isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef):
            yield child


def make() -> str:
    """The text of the module."""
    rules = Rules(SENTENCES)
    trees = {
        module: ast.parse((ROOT / "wsrpc" / f"{module}.py").read_text("utf-8"))
        for module in {source.module for source in CLASSES}
    }
    lines = HEAD.splitlines()
    for source in CLASSES:
        lines += ["", "", *class_of(source, trees[source.module], rules)]
    lines += TAIL.splitlines()
    if rules.missing:
        raise SystemExit("\n".join(["give a rule for what these say of the event loop:", *rules.missing]))
    if rules.unused:
        raise SystemExit(f"rules that apply nowhere: {sorted(rules.unused)}")
    return formatted("\n".join(lines) + "\n")


def formatted(text: str) -> str:
    for command in (["format", "--quiet"], ["check", "--fix", "--quiet"], ["format", "--quiet"]):
        done = subprocess.run(
            [sys.executable, "-m", "ruff", *command, "--stdin-filename", str(MADE), "-"],
            input=text,
            capture_output=True,
            text=True,
            cwd=ROOT,
            check=False,
        )
        if done.returncode:
            raise SystemExit(f"ruff: {done.stdout}\n{done.stderr}\n{text}")
        text = done.stdout
    return text


HEAD = '''"""The blocking classes. Do not edit: ``scripts/make_blocking.py`` makes them of the asynchronous ones."""

from __future__ import annotations

import ssl as ssl_module
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import partial
from types import TracebackType
from typing import TYPE_CHECKING, Any, Never, Self, TypeAlias, TypeVar, overload

from msgspec import UNSET, UnsetType

from .._base.misuse import no_parentheses
from .._base.names import F, Offline, Profile, Redact, StrPath
from .._base.state import Key, PeerState
from .._api.anonymous import AnonymousChannel as AsyncAnonymousChannel, channel_of
from .._client.backoff import DEFAULT_RECONNECT, Reconnect
from .._client.client import Client as AsyncClient
from .._client.reconnection import ReconnectInfo
from .._client.states import ClientState
from .._cluster.cluster import ClusterClient as AsyncClusterClient
from .._conversion.convert import DecHook, EncHook
from .._handlers.injections import Injection, injections
from .._api.peer import Peer as AsyncPeer
from .._protocol.codecs import Codec
from .._sending.retry import Retry
from .._server.broadcast import EmitReport, kept
from .._server.rooms import Members
from .._streams.event_values import Keep
from .._streams.stream import Stream as AsyncStream
from .._transports.dial import Dial, PerAttempt, dial
from ..engine import Engine
from ..limits import Limits
from ..stats import ClusterStats, PeerStats
from ..transport import ConnectionInfo, Transport
from ._contracts import implement, make_emitter, make_proxy
from ._delegate import (
    FORMS,
    ClientRoot,
    ClusterRoot,
    Delegate,
    blocking_form,
    client_portal,
    cluster_portal,
    inner_of,
    own_form,
    per_attempt,
    upload,
)
from ._handlers import MISSING, check_plain, in_a_thread, register
from ._stream import Stream

if TYPE_CHECKING:
    from typing_extensions import TypeForm

__all__ = [
    "AnonymousChannel",
    "Channel",
    "Client",
    "ClusterClient",
    "ClusterPeer",
    "ClusterPeerChannel",
    "ClusterRoom",
    "ClusterRoomChannel",
    "Peer",
]

T = TypeVar("T")

SkipAddressed: TypeAlias = "ClusterPeer | Iterable[ClusterPeer] | None"
'''

TAIL = """

injections[Peer] = Injection(lambda invocation: own_form(invocation.peer))
injections[AnonymousChannel] = Injection(
    lambda invocation: own_form(channel_of(invocation)), conversation=True, blocking=True
)
FORMS.update({AsyncAnonymousChannel: AnonymousChannel, AsyncPeer: Peer, AsyncStream: Stream})
"""


def main(arguments: list[str]) -> int:
    text = make()
    if arguments == ["--check"]:
        return int(MADE.read_text("utf-8") != text)
    MADE.write_text(text, "utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
