"""The commands ``peers``, ``stats`` and ``kick``, and the other side of ``call --peer``, for running servers."""

from __future__ import annotations

import asyncio
import importlib
import os
import time
from collections import Counter
from collections.abc import AsyncGenerator, Callable, Generator, Iterator
from contextlib import aclosing, asynccontextmanager, contextmanager
from typing import Any

import click

from .._base.closing import check_close
from .._client.client import Client
from .._core.wire.nodes import as_raised
from .._core.wire.rejections import NOT_ALLOWED_CODE
from .._net.dialing.urls import shown_url
from .._server.drain import counted
from .._server.operating.description_pages import CHANNEL
from .._server.operating.operations import Operations, Row, Rows, StoredCall, operations_of
from ..cluster._cluster import ClusterClient
from ..cluster._nodes.directory import NODE_TIMEOUT
from ..cluster.engine import Engine
from ..errors import EngineLost, EngineRefused, HandshakeRejected, RemoteError, RequestTimeout, one_line
from ..stats import LIMITED
from .command_connection import CONNECTING, connected, set_up_log
from .command_errors import NOT_SENT, REMOTE, Failure, UsageError, explained
from .command_options import CLUSTER, CONNECTION, ENGINE_TOKEN, URL, Command, Options, several
from .description_request import HAS_NONE, named_url
from .running import Job, ValueWriter, in_event_loop

NATS, REDIS = ("nats", "NatsEngine", "token"), ("redis", "RedisEngine", "password")
ENGINES = {"nats": NATS, "tls": NATS, "redis": REDIS, "rediss": REDIS, "unix": REDIS}
"""The module and the class of the engine for each scheme of URLs, and the option that gets ``--token``."""
FOR_SERVERS = ("header", "subprotocol", "cacert", "cert", "key", "insecure", "compress", "profile", "retry")
"""Options that an engine does not have."""
NODES_INTERVAL = 0.1
"""Seconds between two looks whether a server has answered."""
LONGEST_LIST = 10
"""Number of processes that an error names."""
UNITS = (("d", 86400), ("h", 3600), ("m", 60))
PEER_COLUMNS = (
    "{:<16}  {:<9}  {:>4}  {:>5}  {:>6}  {:>7}  {:>8}  {:>8}  {:>7}  {:>10}  {:<21}  {:<21}  {:<16}  {:<16}  {}"
)
"""The columns of a peer. Their widths are fixed, so that each line is printed as soon as its row arrives. The address,
which may be long, is the last one."""
TITLES = (
    *("ID", "STATE", "AGE", "ROOMS", "ACTIVE", "PENDING", "UNSENT", "KEPT", "MISFITS", "DEPRECATED", "NODE"),
    *("REMOTE", "PROGRAM", "PRINCIPAL", "ADDRESS"),
)

SHARE_COLUMNS = "{:>5}  {:>6}  {:>8}  {:>8}  {:>10}  {:>7}  {:>10}  {:>11}  {}"
SUMMED_STATS = ("active", "unsent_bytes", "kept_bytes", "messages_in")
SHARE_TITLES = ("PEERS", "ACTIVE", "UNSENT", "KEPT", "RECEIVED", "REFUSED", "ABOVE-RATE", "ABOVE-QUOTA", "PRINCIPAL")

OPERATOR = several(URL, CLUSTER, CONNECTION)
JSON_OPTION = click.option("--json", is_flag=True, help="Print one JSON object on each line.")


@click.command(cls=Command, epilog="\b\nexample:\n  wsrpc peers ws://localhost:8080 --json | jq .address")
@OPERATOR
@JSON_OPTION
@in_event_loop
async def peers(options: Options, job: Job) -> None:
    """List the peers of a server, or of all servers of a cluster.

    URL is that of a server that allows it by Server(admin=...), or of the engine of a cluster, such as redis://host.
    """
    await print_rows(
        options, job, lambda through: through.peers(), _peer_line, first=f"{PEER_COLUMNS.format(*TITLES)}\n"
    )


@click.command(cls=Command, epilog="\b\nexample:\n  watch wsrpc stats ws://localhost:8080")
@click.option("--by", type=click.Choice(["principal"]), help="Add up the peers of each principal instead.")
@OPERATOR
@JSON_OPTION
@in_event_loop
async def stats(options: Options, job: Job) -> None:
    """Print the statistics of a server, or of each server of a cluster.

    URL is that of a server that allows it by Server(admin=...), or of the engine of a cluster, such as redis://host.
    """
    if options.by:
        first = f"{SHARE_COLUMNS.format(*SHARE_TITLES)}\n"
        await print_rows(options, job, _by_principal, _share_line, first=first)
    else:
        await print_rows(
            options, job, lambda through: through.stats(), lambda row: "\n".join(_statistics(row)), between="\n"
        )


@click.command(cls=Command, epilog="\b\nexample:\n  wsrpc kick ws://localhost:8080 user/42 --code 1008 --reason banned")
@URL
@click.argument("peer")
@click.option("--code", type=int, default=1000, help="The close code (default: 1000). After 1008, a client gives up.")
@click.option("--reason", default="closed by an operator", help="The close reason.")
@CLUSTER
@CONNECTION
@in_event_loop
async def kick(options: Options, job: Job) -> None:
    """Close the connection of a peer, which is named by its address or its id. Print how many were closed.

    URL is that of a server that allows it by Server(admin=...), or of the engine of a cluster, such as redis://host.
    """
    check_close(options.code, options.reason)
    async with operations(options, job) as through:
        job.doing = "the peer may have been closed"
        number = await through.kick(options.peer, options.code, options.reason)
        await ValueWriter(job).line(f"closed {number} peer{'' if number == 1 else 's'}")


# ---------------------------------------------------------------- the connection


@asynccontextmanager
async def operations(options: Options, job: Job) -> AsyncGenerator[Operations]:
    """Connect to the server of the options, or join their cluster. Yield what its operators can do."""
    if options.url.partition("://")[0] not in ENGINES:
        try:
            async with connected(options, job) as client:
                yield _RequestedOperations(client, named_url(options.url))
        except HandshakeRejected as exc:
            if exc.status != 503:
                raise
            advice = "if it drains, ask another process of its cluster, or the URL of the engine"
            raise Failure(f"{explained(exc)[1]} ({advice})", NOT_SENT) from exc
        return
    cluster = ClusterClient(
        _engine_of(options), name=options.cluster or "wsrpc", connect_timeout=options.timeout or CONNECTING
    )
    set_up_log(verbose=options.verbose)
    job.doing = f"there was no connection yet to {shown_url(options.url)}"
    try:
        async with cluster:
            job.doing = "the connection was closed"
            until = time.monotonic() + NODE_TIMEOUT  # a server that is there, and busy, is heard by then
            while len(cluster.nodes) == 1:
                if time.monotonic() > until:
                    text = f"the cluster {cluster.name!r} has no servers: name another one with --cluster NAME"
                    raise Failure(text, NOT_SENT)
                await asyncio.sleep(NODES_INTERVAL)
            yield operations_of(cluster)
    except EngineRefused as exc:
        secret = ENGINES[options.url.partition("://")[0]][2]
        raise Failure(f"{exc} (the {secret} comes from the URL, --token or {ENGINE_TOKEN})", NOT_SENT) from exc
    except EngineLost as exc:
        raise Failure(str(exc), NOT_SENT) from exc


def _engine_of(options: Options) -> Engine:
    for name in FOR_SERVERS:
        if getattr(options, name):
            raise UsageError(f"--{name} is for the URL of a server, not for that of an engine")
    module, kind, secret = ENGINES[options.url.partition("://")[0]]
    try:
        make = getattr(importlib.import_module(f"wsrpc_adapters.{module}"), kind)
    except ImportError as exc:
        raise UsageError(str(exc)) from exc
    token = os.environ.get(ENGINE_TOKEN)
    engine: Engine = make(options.url, **({secret: token} if token else {}))
    return engine


class _RequestedOperations(Operations):
    """The operations on the peers of a server, and of its cluster, by requests to the server."""

    def __init__(self, client: Client, name: str) -> None:
        self._channel = client.of(CHANNEL)
        self._name = name

    async def _rows(self, what: str, *asked: Any) -> Rows:
        with self._explaining(what):
            async with self._channel.stream(what, *asked, returns=dict[str, Any]) as rows:
                async for row in rows:
                    yield row

    async def kick(self, named: str, code: int, reason: str) -> int:
        with self._explaining("kick"):
            return await self._channel.request("kick", named, code, reason, returns=int)

    async def submit(self, call: StoredCall, args: list[Any], within: float) -> Row:
        with self._explaining("submit"):
            return await self._channel.request("submit", *call, args, within, returns=dict[str, Any])

    async def withdraw(self, call: StoredCall) -> Row:
        with self._explaining("withdraw"):
            return await self._channel.request("withdraw", *call, returns=dict[str, Any])

    async def call(self, named: str, channel: str | None, event: str, args: list[Any], **options: Any) -> Any:
        try:
            with self._explaining("call"):
                return await self._channel.request("call", named, channel, event, args, **options)
        except RequestTimeout as exc:
            raise RequestTimeout(event, exc.timeout, exc.outcome) from exc

    @contextmanager
    def _explaining(self, action: str) -> Generator[None]:
        """Raise the error that the server has sent as the exception that it was there."""
        try:
            yield
        except RemoteError as exc:
            text = exc.message.lower()
            if text.startswith(HAS_NONE) and f"channel '{CHANNEL}'" in text:
                advice = f"create it as Server(admin=allow), where allow(peer, {action!r}) returns whether a client may"
                raise Failure(f"{self._name} has no operators: {advice}", REMOTE) from exc
            if exc.code == NOT_ALLOWED_CODE:
                advice = f"its Server(admin=...) has to return True for this client and {action!r}"
                raise Failure(f"{self._name} does not allow this: {advice}", REMOTE) from exc
            raise as_raised(exc) from exc


# ---------------------------------------------------------------- the output


async def print_rows(
    options: Options,
    job: Job,
    read: Callable[[Operations], Rows],
    text_of: Callable[[Row], str],
    *,
    first: str = "",
    between: str = "",
) -> None:
    """Print a text for each row that ``read`` yields, or with ``--json``, the row itself.

    Raises:
        Failure: after the last row, if there are processes of a cluster that have not answered.
    """
    output = ValueWriter(job)
    failures: list[str] = []
    async with operations(options, job) as through, aclosing(read(through)) as rows:
        async for row in rows:
            if options.json:
                await output.value(row)
            elif "error" not in row:
                await output.line(first + text_of(row))
                first = between
            if "error" in row:
                said = f"{node_of(row)} ({one_line(row['error'])})"
                failures = failures if said in failures else [*failures[:LONGEST_LIST], said]
    if failures:
        raise Failure(f"not all processes have answered: {', '.join(failures)}", REMOTE)


def node_of(row: Row) -> str:
    """Return the node of a row, with its process if that is known."""
    return " ".join(one_line(name, 60) for name in (row.get("node"), row.get("process")) if name) or "-"


def _peer_line(row: Row) -> str:
    """Return the line of a peer. Its parts may be of any type, because another program sends them."""
    state = "slow" if row.get("slow") is True else row.get("state")
    numbers = [row.get(name) for name in ("rooms", "active", "pending", "unsent_bytes", "kept_bytes")]
    numbers += [_total(row.get(name)) for name in ("misfits", "deprecated")]
    names = (row.get(name) for name in ("remote", "program", "principal", "address"))
    cells = (row.get("id"), state, row.get("uptime"), *numbers, row.get("process") or row.get("node"), *names)
    return PEER_COLUMNS.format(*map(text_of, cells))


def _total(counts: Any) -> int | None:
    return sum(number_of(count) for _, count in _items(counts)) if counts.__class__ is dict else None


async def _by_principal(through: Operations) -> Rows:
    """Add up the rows of the peers of each principal, those with most messages first, and what was refused to it."""
    found: dict[str, Row] = {}

    def share_of(principal: Any) -> Row:
        zeros = dict.fromkeys(("peers", *SUMMED_STATS), 0)
        return found.setdefault(repr(principal), {"principal": principal, **zeros, "refused": Counter[str]()})

    async with aclosing(through.peers()) as rows:
        async for row in rows:
            if "error" in row:
                yield row
                continue
            share = share_of(row.get("principal"))
            share["peers"] += 1
            for name in SUMMED_STATS:
                share[name] += number_of(row.get(name))
    async with aclosing(through.stats()) as rows:
        async for row in rows:
            if "error" in row:
                yield row
            for principal, counts in _items(row.get("refused_by_principal")):
                refused = share_of(None if principal == "unknown" else principal)["refused"]
                refused.update({kind: number_of(number) for kind, number in _items(counts)})
    for share in sorted(found.values(), key=lambda share: (-share["messages_in"], -share["refused"].total())):
        yield {**share, "refused": dict(share["refused"])}


def _items(value: Any) -> list[tuple[str, Any]]:
    return [*value.items()] if value.__class__ is dict else []


def number_of(value: Any) -> Any:
    """Return a number of a row from another program. Anything else counts as 0."""
    return value if value.__class__ in (int, float) else 0


def _share_line(row: Row) -> str:
    refused: dict[str, int] = row["refused"]
    limited = [refused.get(kind, 0) for kind in LIMITED]
    numbers = [*(row[name] for name in ("peers", *SUMMED_STATS)), sum(refused.values()) - sum(limited), *limited]
    return SHARE_COLUMNS.format(*map(text_of, (*numbers, row["principal"])))


def _statistics(values: Row, prefix: str = "") -> Iterator[str]:
    """Yield a line for each number in the statistics of a server."""
    for name, value in values.items():
        if name == "cluster" and value.__class__ is dict:
            yield from _statistics(value, "cluster ")
        elif name == "draining" and value.__class__ is dict:
            yield f"{name:<26}  {text_of(counted(value))}"
        else:
            yield f"{one_line(prefix + name):<26}  {text_of(value)}"


def text_of(value: Any) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):  # the uptime in seconds: 0 without a connection
        unit, seconds = next(((unit, size) for unit, size in UNITS if value >= 2 * size), ("s", 1))
        return f"{value // seconds:.0f}{unit}" if value else "-"
    if value.__class__ is dict:
        value = ", ".join(f"{key}: {count}" for key, count in value.items())
    return "-" if value in (None, "") else one_line(value)
