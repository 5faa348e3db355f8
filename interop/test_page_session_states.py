"""What a session of a page's client does in each state, played in Node against a scripted server on a real socket.

A row says what happens, and what the page and the server see of it. The columns:

- The steps, in order. Those of the server: ``welcome`` (a session that resumes; ``welcome:…`` with other fields),
  ``next`` (another connection has said something), ``resumed:rx:bytes``, ``say:…`` (a control message), ``text:…``,
  ``drop``, ``shut:code`` (a Close frame), ``hold`` and ``release`` (handshakes get no answer), ``refuse`` and ``allow``
  (they get 503), ``refused`` and ``dialed`` (there is another handshake). Those of the page: ``open``, ``send:…``,
  ``close:code:reason``, ``wake:…``, ``hide``, ``show``, ``leave``, ``keep``, ``freeze``, ``thaw``, and ``clock:…``,
  which sets the clock by so many seconds. Others wait:
  ``got:…`` for what the server gets on the present connection, and ``until:…`` for an event.
- The state and the events of the session afterwards.
- What the server has got, by connections, control messages by their names, and the code of a Close frame in brackets.
"""

from __future__ import annotations

import asyncio
import re
from typing import Any

from interop.session_pages import Connection, Page, Pages, Script, until

CONNECTING, OPEN, CLOSING, CLOSED = range(4)

Row = tuple[str, int, str, str]

RESUMING = "open welcome drop next"
"""Begins rows about a session that waits for the answer to its resume."""
DETACHED = "open welcome refuse drop until:detached"

ROWS: dict[str, Row] = {
    # ---- connecting
    "connecting: nothing": ("hold open", CONNECTING, "", ""),
    "connecting: what is sent is dropped": ("hold open send:a release next", OPEN, "open", "hello"),
    "connecting: close": ("hold open close", CLOSED, "close 1006 closed", ""),
    "connecting: refused": ("refuse open", CLOSED, "close 1006", ""),
    "connecting: the function for the address fails": (
        "fails:0",
        CLOSED,
        "close 1006 Error: no token",
        "",
    ),
    "connecting: no answer": (
        "hold open until:close",
        CLOSED,
        "close 1006 the server does not answer",
        "",
    ),
    # ---- open, without a welcome
    "plain: messages": ("open text:b send:a", OPEN, "open, message b", "hello a"),
    "plain: a drop ends it": ("open got:hello drop", CLOSED, "open, close 1006", "hello"),
    "plain: the server closes": ("open got:hello shut:4000", CLOSED, "open, close 4000", "hello (4000)"),
    "plain: close": ("open got:hello close:4001:bye", CLOSED, "open, close 4001 bye", "hello gone (4001)"),
    "plain: expired credentials end it": ("open got:hello shut:4411", CLOSED, "open, close 4411", "hello (4411)"),
    "plain: control messages change nothing": (
        "open got:hello say:gone say:resumed say:ack:9:9 say:alive say:credit say:drain say:new text:b",
        OPEN,
        "open, message b",
        "hello",
    ),
    "plain: a silent server is no reason to leave": ("open got:hello quiet", OPEN, "open", "hello"),
    "plain: the welcome comes too late for a session": (
        "open got:hello send:a quiet welcome got:gone say:ack:9:9 drop",
        CLOSED,
        "open, close 1006",
        "hello a gone",
    ),
    # ---- a welcome without resuming
    "no sessions: a drop ends it": (
        "open welcome:none text:b until:message drop",
        CLOSED,
        "open, message b, close 1006",
        "hello",
    ),
    "no sessions: nothing is counted": (
        "open welcome:none text:b until:message send:a",
        OPEN,
        "open, message b",
        "hello a",
    ),
    "no sessions: silence ends it": (
        "open welcome:probe until:close",
        CLOSED,
        "open, close 1006 the server does not answer",
        "hello probe (1000)",
    ),
    # ---- open
    "open: messages from the hello on are counted": (
        "open send:a send:b got:b welcome say:ack:1:1 drop next resumed:1:1 got:b",
        OPEN,
        "open, detached, resumed",
        "hello a b | resume b",
    ),
    "open: messages are acknowledged": (
        "open welcome text:b got:ack",
        OPEN,
        "open, message b",
        "hello ack",
    ),
    "open: close tells the server first": (
        "open welcome close",
        CLOSED,
        "open, close 1000",
        "hello gone (1000)",
    ),
    "open: what is sent after close is dropped": (
        "open welcome close+send:a",
        CLOSED,
        "open, close 1000",
        "hello gone (1000)",
    ),
    "open: close with a code": (
        "open welcome close:4001:bye",
        CLOSED,
        "open, close 4001 bye",
        "hello gone (4001)",
    ),
    "open: a reason that is too long": (
        "open welcome throws:longclose:SyntaxError send:a",
        OPEN,
        "open",
        "hello a",
    ),
    "open: a close code that is not allowed": (
        "open welcome throws:close:1001:InvalidAccessError send:a",
        OPEN,
        "open",
        "hello a",
    ),
    "open: a second welcome changes nothing": (
        "open welcome welcome:none drop next resumed:0:0 until:resumed",
        OPEN,
        "open, detached, resumed",
        "hello | resume",
    ),
    "open: control messages of other times": (
        "open welcome say:gone say:resumed:7:7 say:welcome say:alive say:hello say:resume text:b",
        OPEN,
        "open, message b",
        "hello",
    ),
    "open: credit, limits and drain are counted, and stay inside": (
        "open welcome say:credit say:limits say:drain got:ack counts:3",
        OPEN,
        "open",
        "hello ack",
    ),
    "open: a control message with other fields is a message": (
        'open welcome text:{"ws-wrapper":false,"wsrpc":{"t":"ack"},"x":1}',
        OPEN,
        'open, message {"ws-wrapper":false,"wsrpc":{"t":"ack"},"x":1}',
        "hello",
    ),
    "open: a false acknowledgement": (
        "open welcome send:a say:ack:2:1",
        CLOSED,
        "open, close 4400 the counts differ",
        "hello a (4400)",
    ),
    "open: an acknowledgement of false bytes": (
        "open welcome send:a say:ack:1:2",
        CLOSED,
        "open, close 4400 the counts differ",
        "hello a (4400)",
    ),
    "open: an acknowledgement that goes back": (
        "open welcome send:a got:a say:ack:1:1 say:ack:0:0",
        CLOSED,
        "open, close 4400 the counts differ",
        "hello a (4400)",
    ),
    "open: an acknowledgement that is no number": (
        "open welcome send:a say:ack:x:x",
        CLOSED,
        "open, close 4400 the counts differ",
        "hello a (4400)",
    ),
    "open: a connection that dies in silence": (
        "open welcome send:a next resumed:1:1 until:resumed",
        OPEN,
        "open, resumed",
        "hello a probe (4412) | resume",
    ),
    "open: a server that is slow is not left": (
        "open welcome hold dialed say:alive text:b until:message release text:c",
        OPEN,
        "open, message b, message c",
        "hello probe",
    ),
    **{
        f"open: a connection that dies in silence, and the clock is set by {seconds} s": (
            f"open welcome clock:{seconds} send:a next resumed:1:1 until:resumed",
            OPEN,
            "open, resumed",
            "hello a probe (4412) | resume",
        )
        for seconds in (-3600, -30 * 86400, 3600)
    },
    "open: a server that cannot be probed": ("open welcome:noprobe quiet", OPEN, "open", "hello"),
    **{
        f"open: close code {code} ends it": (
            f"open welcome shut:{code}",
            CLOSED,
            f"open, close {code}",
            f"hello ({code})",
        )
        for code in (1000, 1008, 1011, 1012, 1013, 3000, 3003, 4000, 4400, 4409, 4410)
    },
    **{
        f"open: close code {code} does not": (
            f"open welcome shut:{code} next resumed:0:0 until:resumed",
            OPEN,
            "open, detached, resumed",
            f"hello ({code}) | resume",
        )
        for code in (1001, 4411)
    },
    "open: close code 1001, and the server has ended the session": (
        "open welcome shut:1001 next say:gone",
        CLOSED,
        "open, detached, close 1006 not resumed: expired",
        "hello (1001) | resume (1000)",
    ),
    # ---- detached
    "detached: what is sent waits": (
        "open welcome send:a got:a hold drop until:detached send:b release next resumed:0:0 got:b send:c got:c",
        OPEN,
        "open, detached, resumed",
        "hello a | resume a b c",
    ),
    "detached: what has arrived is not sent again": (
        "open welcome send:a send:b got:b drop next resumed:1:1 got:b",
        OPEN,
        "open, detached, resumed",
        "hello a b | resume b",
    ),
    "detached: close": (f"{DETACHED} close:4001:bye", CLOSED, "open, detached, close 4001 bye", "hello"),
    "detached: too long": (
        "open welcome:ttl=0.4 refuse drop",
        CLOSED,
        "open, detached, close 1006 not resumed in time",
        "hello",
    ),
    "detached: a far end is no end": (
        "open welcome:ttl=1e12 drop next resumed:0:0 until:resumed",
        OPEN,
        "open, detached, resumed",
        "hello | resume",
    ),
    "detached: an attempt is refused, and the next one is not": (
        f"{DETACHED} refused allow next resumed:0:0 until:resumed",
        OPEN,
        "open, detached, resumed",
        "hello | resume",
    ),
    "detached: credentials cannot be had for a while": (
        "fails:1 welcome drop",
        OPEN,
        "open, detached",
        "hello",
    ),
    "detached: credentials never come": (
        "hangs welcome:ttl=2 drop",
        CLOSED,
        "open, detached, close 1006 not resumed in time",
        "hello",
    ),
    # ---- resuming
    "resuming: resumed": (
        f"{RESUMING} resumed:0:0 text:b",
        OPEN,
        "open, detached, resumed, message b",
        "hello | resume",
    ),
    "resuming: what is sent waits": (
        f"{RESUMING} send:a resumed:0:0 got:a",
        OPEN,
        "open, detached, resumed",
        "hello | resume a",
    ),
    "resuming: gone": (
        f"{RESUMING} say:gone",
        CLOSED,
        "open, detached, close 1006 not resumed: expired",
        "hello | resume (1000)",
    ),
    "resuming: gone for 3,000 characters": (
        f"{RESUMING} say:gone:long",
        CLOSED,
        "open, detached, close 1006 not resumed: xxx",
        "hello | resume (1000)",
    ),
    "resuming: a wrong answer": (
        f"{RESUMING} text:b",
        CLOSED,
        "open, detached, close 1006 not resumed: no answer",
        "hello | resume (1000)",
    ),
    "resuming: a control message of another time": (
        f"{RESUMING} say:alive",
        CLOSED,
        "open, detached, close 1006 not resumed: no answer",
        "hello | resume (1000)",
    ),
    "resuming: no answer, twice": (
        f"{RESUMING} next next resumed:0:0 until:resumed",
        OPEN,
        "open, detached, resumed",
        "hello | resume (4412) | resume (4412) | resume",
    ),
    "resuming: it drops again": (
        f"{RESUMING} drop next resumed:0:0 until:resumed",
        OPEN,
        "open, detached, resumed",
        "hello | resume | resume",
    ),
    "resuming: the answer is lost": (
        f"{RESUMING} resumed:0:0+drop next resumed:0:0 until:resumed",
        OPEN,
        "open, detached, resumed, detached, resumed",
        "hello | resume | resume",
    ),
    "resuming: false counts": (
        f"{RESUMING} resumed:1:0",
        CLOSED,
        "open, detached, close 4400 the counts differ",
        "hello | resume (4400)",
    ),
    "resuming: false counts of messages that nobody has got": (
        f"{RESUMING} send:a resumed:1:1",
        CLOSED,
        "open, detached, close 4400 the counts differ",
        "hello | resume (4400)",
    ),
    "resuming: close": (
        f"{RESUMING} close:4001:bye",
        CLOSED,
        "open, detached, close 4001 bye",
        "hello | resume (4001)",
    ),
    "resuming: too long": (
        "open welcome:ttl=4 drop next",
        CLOSED,
        "open, detached, close 1006 not resumed in time",
        "hello | resume (1000)",
    ),
    **{
        f"resuming: close code {code} ends it": (
            f"{RESUMING} shut:{code}",
            CLOSED,
            f"open, detached, close {code}",
            f"hello | resume ({code})",
        )
        for code in (1008, 3000, 3003, 4410)
    },
    **{
        f"resuming: close code {code} does not": (
            f"{RESUMING} shut:{code} next resumed:0:0 until:resumed",
            OPEN,
            "open, detached, resumed",
            f"hello | resume ({code}) | resume",
        )
        for code in (1001, 1012, 4411)
    },
    # ---- closed
    "closed: nothing more happens": (
        "open welcome close until:close send:a close close:4001",
        CLOSED,
        "open, close 1000",
        "hello gone (1000)",
    ),
    # ---- the page wakes up
    "connecting: the page wakes up": ("hold open wake:online show", CONNECTING, "", ""),
    "plain: the page wakes up": ("open got:hello wake:online show", OPEN, "open", "hello"),
    "no sessions: the page wakes up": (
        "open welcome:probe wake:online got:probe say:alive",
        OPEN,
        "open",
        "hello probe",
    ),
    "open: the page is seen again": ("open welcome hide show got:probe say:alive", OPEN, "open", "hello probe"),
    "open: the page is hidden": ("open welcome hide", OPEN, "open", "hello"),
    "open: the network is back while the page is hidden": (
        "open welcome hide wake:online next resumed:0:0 until:resumed",
        OPEN,
        "open, resumed",
        "hello probe (4412) | resume",
    ),
    "open: the page is seen again, and the connection is dead": (
        "open welcome hide show next resumed:0:0 until:resumed",
        OPEN,
        "open, resumed",
        "hello probe (4412) | resume",
    ),
    "open: the network is back": (
        "open welcome wake:online next resumed:0:0 until:resumed",
        OPEN,
        "open, resumed",
        "hello probe (4412) | resume",
    ),
    "open: the network is back, and the connection is not lost": (
        "open welcome hold wake:online got:probe say:alive text:b until:message release text:c",
        OPEN,
        "open, message b, message c",
        "hello probe | (1000)",
    ),
    "open: the page was frozen": (
        "open welcome thaw next resumed:0:0 until:resumed",
        OPEN,
        "open, resumed",
        "hello probe (4412) | resume",
    ),
    # The time of the machine goes on, and that of the process does not, as on some systems.
    "open: the machine was asleep": (
        "open welcome clock:3600 wake:pageshow next resumed:0:0 until:resumed",
        OPEN,
        "open, resumed",
        "hello probe (4412) | resume",
    ),
    "open: the clock was set back": (
        "open welcome clock:-3600 wake:pageshow got:probe say:alive",
        OPEN,
        "open",
        "hello probe",
    ),
    "open: the page freezes": ("open welcome freeze", OPEN, "open, detached", "hello (4412)"),
    "open: the page freezes and thaws": (
        "open welcome hide freeze thaw next resumed:0:0 until:resumed",
        OPEN,
        "open, detached, resumed",
        "hello (4412) | resume",
    ),
    "plain: the page freezes": ("open got:hello freeze", OPEN, "open", "hello"),
    "detached: the network is back": (
        f"{DETACHED} refused allow wake:online next resumed:0:0 until:resumed",
        OPEN,
        "open, detached, resumed",
        "hello | resume",
    ),
    "resuming: the network is back": (
        f"{RESUMING} wake:online wake:pageshow resumed:0:0 until:resumed",
        OPEN,
        "open, detached, resumed",
        "hello | resume",
    ),
    "closed: the network is back": (
        "open welcome close until:close wake:online",
        CLOSED,
        "open, close 1000",
        "hello gone (1000)",
    ),
    # ---- the page goes away
    "connecting: the page is left": ("hold open leave", CLOSED, "close 1006 closed", ""),
    "open: the page is left": ("open welcome leave", CLOSED, "open, close 1000", "hello gone (1000)"),
    "open: the page may come back": ("open welcome keep", OPEN, "open, detached", "hello (4412)"),
    "open: the page comes back": (
        "open welcome keep send:a wake:pageshow next resumed:0:0 got:a",
        OPEN,
        "open, detached, resumed",
        "hello (4412) | resume a",
    ),
    "resuming: the page may come back": (f"{RESUMING} keep", OPEN, "open, detached", "hello | resume (4412)"),
    "plain: the page may come back": ("open got:hello keep", OPEN, "open", "hello"),
}

PAGE = ("clock", "wake", "hide", "show", "leave", "keep", "freeze", "thaw")
"""Steps for which Node has to have a page, of its own because all sessions of the page take part."""
WELCOMES: dict[str, dict[str, Any]] = {
    "": {},
    "none": {"features": [], "sid": None},
    "probe": {"features": ["probe"], "sid": None},
    "noprobe": {"features": ["resume"]},
}


class Played:
    """A row while it is played."""

    def __init__(self, pages: Pages, script: Script) -> None:
        self.pages = pages
        self.script = script
        self.page: Page = pages.unopened()
        self.state = -1
        self._count = 0
        """Connections that the steps have waited for."""

    @property
    def connection(self) -> Connection:
        return self.script.connections[self._count - 1]

    async def step(self, step: str) -> None:
        name, _, rest = step.partition(":")
        parts = rest.split(":") if rest else []
        if "+" in step:  # within one turn
            for each in step.split("+"):
                await self.step(each)
        elif name in ("open", "fails", "hangs"):
            options = {"open": {}, "fails": {"fails": int(rest or 0)}, "hangs": {"hangs": True}}[name]
            await self.page.do(["open", self.script.url, options])
            if self.script.open.is_set() and self.script.status is None and step != "fails:0":
                await self.step("next")
        elif name == "next":
            self._count += 1
            await self.script.next(self._count)
        elif name == "hold":
            self.script.open.clear()
        elif name == "release":
            self.script.open.set()
        elif name == "refuse":
            self.script.status = 503
        elif name in ("refused", "dialed"):
            count = len(self.script.offers)
            await until(lambda: len(self.script.offers) > count)
        elif name == "allow":
            self.script.status = None
        elif name == "welcome":
            await self._welcome(rest)
        elif name == "resumed":
            await self.connection.say("resumed", rx=int(parts[0]), bytes=int(parts[1]), token="t", limits={})
        elif name == "say":
            await self._say(parts)
        elif name == "text":
            await self.connection.socket.send(rest)
        elif name == "drop":
            self.connection.drop()
        elif name == "shut":
            await self.connection.socket.close(int(rest))
        elif name == "got":
            await self.connection.until(rest.rstrip("2"), 2 if rest.endswith("2") else 1)
        elif name == "counts":
            assert self.connection.controls[-1]["n"] == int(rest)
        elif name == "until":
            await self.page.until(rest)
        elif name == "quiet":
            # Twice the time after which a connection that can be probed is left.
            await asyncio.sleep(12)
        elif name == "throws":
            *call, error = parts
            long = ["close", 4000, "x" * 124]
            assert (await self.page.fails(long if call == ["longclose"] else _call(call))).startswith(f"{error}: ")
        elif name == "show":
            await self.page.do(["see", "visible"])
        elif name == "hide":
            await self.page.do(["see", "hidden"])
        elif name in ("leave", "keep"):
            await self.page.do(["leave", name == "keep"])
        else:
            await self.page.do(_call([name, *parts]))

    async def _welcome(self, which: str) -> None:
        fields: dict[str, Any] = {"features": ["resume", "probe"], "sid": "s", "token": "t", "ttl": 60, "limits": {}}
        if which.startswith("ttl="):
            fields["ttl"] = float(which[4:])
        else:
            fields.update(WELCOMES[which])
        await self.connection.say("welcome", **fields)
        await (await self.connection.socket.ping())  # answered when the page has read the welcome

    async def _say(self, parts: list[str]) -> None:
        t, *values = parts
        numbers = [int(value) if value.isdigit() else value for value in values]
        if t == "gone":
            await self.connection.say("gone", why="x" * 3000 if values else "expired")
        elif t in ("ack", "resumed"):
            keys = ("n", "bytes") if t == "ack" else ("rx", "bytes")
            await self.connection.say(t, **dict(zip(keys, numbers, strict=False)))
        else:
            await self.connection.say(t)


def _call(parts: list[str]) -> list[Any]:
    return [int(part) if part.isdigit() else part for part in parts]


async def play(row: Row, pages: Pages) -> tuple[int, str, str]:
    """Return the state, the events and the wire, when they are as they should be, or stay otherwise."""
    steps, _, events, wire = row
    async with Script.start() as script:
        played = Played(pages, script)

        def seen() -> tuple[str, str]:
            shown = ", ".join(played.page.events)
            return re.sub("xxx+", "xxx", shown), script.wire()

        try:
            for step in steps.split():
                await played.step(step)
            await until(lambda: seen() == (events, wire), seen)
            # What has happened too much is seen when the process has answered.
            return await played.page.do(), *seen()
        except AssertionError as error:
            return -1, ", ".join(played.page.events), f"{script.wire()} ({error})"
        finally:
            await played.page.do(["close"])


async def test_a_session_in_each_state() -> None:
    """All rows at once: some take as long as silence does."""
    some = asyncio.Semaphore(6)

    async def with_page(row: Row) -> tuple[int, str, str]:
        async with some, Pages.start("--page") as pages:
            return await play(row, pages)

    async with Pages.start() as pages, asyncio.TaskGroup() as group:
        tasks = {
            name: group.create_task(with_page(row) if any(word in row[0] for word in PAGE) else play(row, pages))
            for name, row in ROWS.items()
        }
    assert {name: task.result() for name, task in tasks.items()} == {name: row[1:] for name, row in ROWS.items()}
