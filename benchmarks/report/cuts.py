"""The section about sessions that are cut."""

from __future__ import annotations

from collections.abc import Iterator

from ..cuts.outcome import COLUMNS, Cuts, rows
from .markdown import table

EXPLAINED = "4.8.4"
"""The version of socket.io and socket.io-client whose source `WHY` explains. Read it again for another one."""

ABOUT = """\
A client and a server send numbered events to each other through a proxy, one event every 2 ms in each direction. The
proxy cuts their connection {cuts:,} times. A seed determines the cuts, so they are the same for each system. The first
three columns of the table show after how many cuts the session continued:

- **before any event**: both sides get a TCP reset 50 ms after the session began, when neither side has sent an event.
  This is the first cut of each session.
- **in a flow**: both sides get a TCP reset while events flow in both directions.
- **half open**: the client connects again while the server still has the old connection, as when a phone changes
  networks. The old connection is reset after that.

The other columns count events, as the client and server programs saw them. **Lost** events never arrived, and
**duplicated** events arrived twice.
"""

HOW = """\
wsrpc and Socket.IO run with their default settings, with two exceptions: the delays between attempts to reconnect are
short, and the Socket.IO server sets `connectionStateRecovery: {{}}`. This server emits to a room, which each socket
joins when it connects.

The last row also follows the advice of Socket.IO's documentation. The client sets `retries: 3` and `ackTimeout: 10000`
([Delivery guarantees](https://socket.io/docs/v4/delivery-guarantees)). The server sends an event to each new socket,
because recovery needs an event
([Connection state recovery](https://socket.io/docs/v4/connection-state-recovery)).

The run was on {date}, with {machine}.
"""

WHY = f"""\
### Why Socket.IO loses events

The source code of Socket.IO {EXPLAINED} and traces of runs like this one show the causes:

- **Before any event**, no session continues. A client reconnects with the offset of the last event that it received.
  Without an offset, the server restores nothing (`Namespace._createSocket` in socket.io), as Socket.IO's documentation
  says. [Issue 5538](https://github.com/socketio/socket.io/issues/5538) describes the problem. The client gets a new
  socket instead, and misses events to its rooms until the new socket has joined them. A few cuts in a flow have the
  same effect, because they also come before the first event. In the last row, all these sessions continue, because the
  server sends an event to each new socket.
- **Half open**: the server stores a session when it notices the end of a connection (`Socket._onclose`). While the old
  connection seems open, no session is stored, so the server has nothing to restore. In the last row, each session was
  stored at an earlier cut, so it can continue.
- **After a half-open cut from which the session continues**, the server has two sockets with the same id. When it
  notices the end of the old connection, `Socket._onclose` removes this id from the rooms and the namespace
  (`_cleanup`). This also removes the new socket. The client stays connected, and its events arrive, but it receives no
  events from the server until its next drop. At that drop, the session is stored without rooms, so the server does not
  send the missed events again. [Issue 4880](https://github.com/socketio/socket.io/issues/4880) describes the same
  sequence.

    In this run, the server notices the end of the old connection immediately. With Socket.IO's default pings, this
    takes up to 45 s. Nearly all lost events to the client have this cause: with a copy of Socket.IO in which `_onclose`
    keeps an id that another socket has, the last row has no lost events. If the server adds a socket to its rooms only
    if the socket has not recovered, about half of all events to the client are lost, because such sockets recover
    without rooms.
- **To the server**, Socket.IO sends events at most once by default, as its documentation says. The client can send an
  event on a connection that is already broken, and keeps no copy of the event. With `retries`, the client sends an
  event again until the server acknowledges it, at most three times. If an acknowledgement is lost, the event arrives
  twice, and the application must detect this.

### What Socket.IO can do and wsrpc cannot

- Recovery in Socket.IO works with JavaScript clients, including browsers. wsrpc resumes
  [sessions](../explanation/sessions.md#when-a-session-resumes) only between two wsrpc peers.
- With the adapters for Redis Streams and MongoDB, a different process can restore a session of Socket.IO. A session of
  wsrpc resumes only in the same process.

Neither Socket.IO nor wsrpc can continue a session if the connection drops within the first round trip of the session.
No cut in this run is that early.
"""


def sessions_that_are_cut(run: Cuts) -> Iterator[str]:
    """The blocks of the section."""
    yield "## Connections that are cut\n"
    yield ABOUT.format(cuts=max(sum(outcome.cuts.values()) for outcome in run.systems.values()))
    yield table(COLUMNS, rows(run))
    machine = ", ".join(f"{name} {version.removeprefix('v')}" for name, version in run.machine.items())
    yield run.gaps.sentence() + "\n"
    yield HOW.format(date=run.date, machine=machine)
    yield WHY
