"""The commands ``waiting``, ``submit`` and ``withdraw``: calls that wait in the store of a cluster for peers."""

from __future__ import annotations

import secrets
import time
from collections.abc import Awaitable, Callable

import click

from .._base.names import check_event
from .._server.operating.operations import Operations, Row, StoredCall
from .command_errors import REMOTE, Failure
from .command_options import CLUSTER, CONNECTION, SECONDS, URL, Command, Options, channel_option, several
from .command_values import argument
from .operating import JSON_OPTION, number_of, operations, print_rows, text_of
from .running import Job, ValueWriter, in_event_loop

ADDRESS_COLUMNS = "{:>5}  {:>6}  {}"
"""The columns of an address."""
CALL_COLUMNS = "{:>6}  {:>6}  {:<7}  {:<32}  {}"
"""The columns of a call."""

CALL_OF_PEER = several(URL, click.argument("address"), click.argument("event"))
OPTIONS = several(channel_option("A named channel of the peer (default: its main channel)."), CLUSTER, CONNECTION)


@click.command(cls=Command, epilog="\b\nexample:\n  wsrpc waiting redis://127.0.0.1:6379 --cluster shop")
@URL
@click.argument("address", required=False)
@CLUSTER
@CONNECTION
@JSON_OPTION
@in_event_loop
async def waiting(options: Options, job: Job) -> None:
    """List the addresses to which calls wait, or the calls that wait for ADDRESS, the oldest first.

    URL is that of a server that allows it by Server(admin=...), or of the engine of a cluster, such as redis://host.
    """
    now, address = time.time(), options.address

    def line(row: Row) -> str:
        age = now - number_of(row.get("since"))
        if not address:
            return ADDRESS_COLUMNS.format(text_of(row.get("count")), text_of(age), text_of(row.get("address")))
        event = " --channel ".join(str(row[name]) for name in ("event", "channel") if row.get(name))
        cells = age, number_of(row.get("until")) - now, row.get("state"), row.get("key"), event
        return CALL_COLUMNS.format(*map(text_of, cells))

    first = (
        CALL_COLUMNS.format("AGE", "LEFT", "STATE", "KEY", "EVENT")
        if address
        else ADDRESS_COLUMNS.format("CALLS", "OLDEST", "ADDRESS")
    )
    await print_rows(options, job, lambda through: through.waiting(address or ""), line, first=f"{first}\n")


@click.command(
    cls=Command,
    epilog="\b\nexample:\n  wsrpc submit redis://127.0.0.1:6379 lock-8 unlock 2 --within 3600 --call visit-17",
)
@CALL_OF_PEER
@click.argument("args", metavar="[ARG]...", nargs=-1)
@click.option(
    "--within",
    type=SECONDS,
    default=3600.0,
    help="Seconds in which the peer has to connect (default: 3600).",
)
@click.option("--call", metavar="KEY", help="The key of the call, which runs once (default: a random one).")
@OPTIONS
@in_event_loop
async def submit(options: Options, job: Job) -> None:
    """Let a call wait in the store until the peer with ADDRESS connects. Print its key and its state.

    If there is a call with the key, only print its state. Fails if it has failed or expired.

    URL is that of a server that allows it by Server(admin=...), or of the engine of a cluster, such as redis://host.
    """
    key = secrets.token_hex(8) if options.call is None else options.call
    args = [argument(text) for text in options.args]
    wanted = "waiting", "running", "done"
    await _do(options, job, key, wanted, lambda through, call: through.submit(call, args, options.within))


@click.command(cls=Command, epilog="\b\nexample:\n  wsrpc withdraw redis://127.0.0.1:6379 lock-8 unlock visit-17")
@CALL_OF_PEER
@click.argument("call", metavar="KEY")
@OPTIONS
@in_event_loop
async def withdraw(options: Options, job: Job) -> None:
    """Withdraw the call with KEY, unless it was handed over. Print its state. Fails unless it is withdrawn.

    URL is that of a server that allows it by Server(admin=...), or of the engine of a cluster, such as redis://host.
    """
    await _do(options, job, options.call, ("withdrawn",), lambda through, call: through.withdraw(call))


async def _do(
    options: Options,
    job: Job,
    key: str,
    wanted: tuple[str, ...],
    change: Callable[[Operations, StoredCall], Awaitable[Row]],
) -> None:
    check_event(options.event)
    async with operations(options, job) as through:
        job.doing = f"the call with the key {key} may have been changed"
        row = await change(through, StoredCall(options.address, options.channel, options.event, key))
        await ValueWriter(job).value({"key": key, **row})
        if row.get("state") not in wanted:
            raise Failure(f"the call with the key {key} is {row.get('state')}", REMOTE)
