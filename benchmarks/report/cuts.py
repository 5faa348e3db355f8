"""The section about sessions that are cut."""

from __future__ import annotations

from collections.abc import Iterator

from ..cuts.outcome import COLUMNS, Cuts, rows
from .markdown import table

EXPLAINED = "4.8.4"
"""The version of socket.io and socket.io-client whose source `WHY` explains. Read it again for another one."""

ABOUT = """\
A client and a server send numbered events to each other, each one every 2 ms, through a proxy that cuts their
connection {cuts:,} times: the same seeded cuts for each system. The first three columns say after how many cuts the
session went on.

- **before any event**: both sides get a RST 50 ms after the session began, and neither has sent an event. This is the
  first cut of each session.
- **in a flow**: the same while events flow in both directions.
- **half open**: the client dials again while the server still has the old connection, as when a phone changes networks.
  The old connection is reset once the client is back.
- **lost** and **doubled** are events as the applications saw them, for all cuts together.
"""

HOW = """\
wsrpc runs in its default setting, and so does Socket.IO with `connectionStateRecovery: {{}}`; only the delays between
attempts are short. Socket.IO's server emits to a room, which each socket joins when it connects. The last row also does
what Socket.IO's documentation advises: the client has `retries: 3` and `ackTimeout: 10000`
([delivery guarantees](https://socket.io/docs/v4/delivery-guarantees)), and the server sends an event to each new
socket, since [recovery](https://socket.io/docs/v4/connection-state-recovery) needs one. The run was on {date}, with
{machine}.
"""

WHY = f"""\
Why Socket.IO {EXPLAINED} loses events, from its source and from traces of such runs:

- **Before any event** no session goes on. A client comes back with the offset of the last event that it received, and
  the server restores nothing without an offset (`Namespace._createSocket` in socket.io). Socket.IO's documentation says
  so, and [issue 5538](https://github.com/socketio/socket.io/issues/5538) is about it. The client then has a new socket,
  which misses what is emitted to its rooms until it has joined them. A few cuts in a flow come before the first event,
  too. An event to each new socket, as in the last row, avoids this.
- **Half open**, a session does not go on if the server has never noticed a drop of it. The server stores a session when
  it notices the end of a connection (`Socket._onclose`), so there is nothing to restore as long as it has the first
  one. In the last row, each session has had an ordinary drop before.
- **After a half-open cut from which the session goes on**, two sockets in the server have the same id. When the server
  notices the end of the old connection, `Socket._onclose` removes that id from the rooms and from the namespace
  (`_cleanup`), and so the new socket, too. The client stays connected and its events arrive, but nothing that the
  server emits reaches it until its next drop. Then the session is stored without rooms, so that nothing is sent again.
  Here the server notices at once; with Socket.IO's default pings it takes up to 45 s. Nearly all lost events to the
  client are of this kind: in a copy in which `_onclose` leaves an id alone that another socket has, the last row loses
  nothing. [Issue 4880](https://github.com/socketio/socket.io/issues/4880) describes the same sequence. A server whose
  sockets join their rooms only if they have not recovered loses about half of all events to the client here, because
  such sockets recover without rooms.
- **To the server**, events are sent at most once by default, as documented: the client gives an event to a connection
  that is already broken, and keeps no copy. With `retries` it sends an event again until the server acknowledges it,
  at most three times. An event whose acknowledgement was lost comes twice, which the application has to recognize.

What Socket.IO does and wsrpc does not: its recovery works for JavaScript, also in browsers, while
[sessions](../explanation/sessions.md#when-a-session-resumes) of wsrpc go on only between two wsrpc peers. With its
adapters for Redis Streams and MongoDB, another process can restore a session. A drop within the first round trip of a
session ends it in wsrpc, too; no cut here comes so early.
"""


def sessions_that_are_cut(run: Cuts) -> Iterator[str]:
    """The blocks of the section."""
    yield "## Sessions that are cut\n"
    yield ABOUT.format(cuts=max(sum(outcome.cuts.values()) for outcome in run.systems.values()))
    yield table(COLUMNS, rows(run))
    machine = ", ".join(f"{name} {version.removeprefix('v')}" for name, version in run.machine.items())
    yield run.gaps.sentence() + "\n"
    yield HOW.format(date=run.date, machine=machine)
    yield WHY
