"""The section about sessions that are cut."""

from __future__ import annotations

from collections.abc import Iterator

from ..cuts.outcome import COLUMNS, Cuts, rows
from .markdown import table

EXPLAINED = "4.8.4"
"""The version of socket.io and socket.io-client whose source `WHY` explains. Read it again for another one."""

ABOUT = """\
A client and a server send numbered events to each other, one every 2 ms, through a proxy. The proxy cuts their
connection {cuts:,} times, with the same seeded cuts for each system. The first three columns count the cuts after
which the session continued.

- **before any event**: both sides get a TCP reset 50 ms after the session began. Neither side has sent an event yet.
  This is the first cut of each session.
- **in a flow**: both sides get a TCP reset while events flow in both directions.
- **half open**: the client connects again while the server still has the old connection, as when a phone changes
  networks. The old connection is reset after that.
- **lost** and **doubled** count events as the applications saw them, over all cuts.
"""

HOW = """\
wsrpc and Socket.IO run with their default settings, Socket.IO with `connectionStateRecovery: {{}}`. Only the delays
between attempts are short. The Socket.IO server emits to a room, which each socket joins when it connects. The last row
also follows the advice of Socket.IO's documentation: the client sets `retries: 3` and `ackTimeout: 10000`
([delivery guarantees](https://socket.io/docs/v4/delivery-guarantees)), and the server sends an event to each new
socket, because [recovery](https://socket.io/docs/v4/connection-state-recovery) needs one. The run was on {date}, with
{machine}.
"""

WHY = f"""\
The source of Socket.IO {EXPLAINED} and traces of such runs show why events are lost:

- **Before any event**, no session continues. A client reconnects with the offset of the last event that it received,
  and the server restores nothing without an offset (`Namespace._createSocket` in socket.io). Socket.IO's
  documentation says so, and [issue 5538](https://github.com/socketio/socket.io/issues/5538) is about it. The client
  then gets a new socket, which misses the events that are emitted to its rooms until it has joined them. A few cuts
  in a flow also come before the first event. An event to each new socket, as in the last row, avoids this.
- **Half open**, a session does not continue if the server has never noticed a drop of it. The server stores a session
  when it notices the end of a connection (`Socket._onclose`). As long as the first connection seems open, there is
  nothing to restore. In the last row, each session has had an ordinary drop before.
- **After a half-open cut from which the session continues**, two sockets in the server have the same id. When the
  server notices the end of the old connection, `Socket._onclose` removes that id from the rooms and the namespace
  (`_cleanup`). This removes the new socket, too. The client stays connected and its events arrive, but it receives no
  event from the server until its next drop. The session is then stored without rooms, so nothing is sent again. In
  this run the server notices at once. With Socket.IO's default pings it takes up to 45 s. Nearly all lost events to
  the client have this cause: with a copy of Socket.IO in which `_onclose` keeps an id that another socket has, the
  last row loses nothing. [Issue 4880](https://github.com/socketio/socket.io/issues/4880) describes the same sequence.
  A server whose sockets join their rooms only if they have not recovered loses about half of all events to the
  client, because such sockets recover without rooms.
- **To the server**, Socket.IO sends events at most once by default, as documented. The client may give an event to a
  connection that is already broken, and keeps no copy. With `retries` it sends an event again until the server
  acknowledges it, at most three times. If an acknowledgement is lost, the event arrives twice, and the application
  has to recognize that.

Socket.IO can do two things that wsrpc cannot. Its recovery works with JavaScript clients, also in browsers, while
[sessions](../explanation/sessions.md#when-a-session-resumes) of wsrpc resume only between two wsrpc peers. With its
adapters for Redis Streams and MongoDB, another process can restore a session. Like Socket.IO's, a session of wsrpc
cannot resume if the drop comes very early, within its first round trip; no cut in this run is that early.
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
