"""What a session of a page's client does in each state. `session_pages` says what the steps of a row are.

Each row has its name, its steps, the events that the page hears of, and what the server has got, by connections:
control messages by their names, and the code of a Close frame in brackets.
"""

from __future__ import annotations

import re

from interop.session_pages import play

ROWS = """
connecting: nothing > hold open >  >
connecting: what is sent is dropped > hold open send:a release > open > hello
connecting: close > hold open close > close 1006 closed >
connecting: refused > refuse open > close 1006 the server refuses the connection, or is not reachable >
connecting: the function for the address fails > open:fails=0 > close 1006 Error: no token >
connecting: no answer > hold open until:close > close 1006 the server does not answer >
plain: messages > open text:b send:a > open, message b > hello a
plain: a drop ends it > open drop > open, close 1006 > hello
plain: the server closes > open shut:4000 > open, close 4000 > hello (4000)
plain: close > open close:4001:bye > open, close 4001 bye > hello gone (4001)
plain: expired credentials end it > open shut:4411 > open, close 4411 > hello (4411)
plain: control messages change nothing > open gone resumed ack:9:9 say:alive say:credit say:drain say:new text:b >
    open, message b > hello
plain: a silent server is no reason to leave > open 12@end > open > hello
plain: the welcome comes too late for a session > open send:a 12@end welcome ack:9:9 drop > open, close 1006 >
    hello a gone
no sessions: a drop ends it > open welcome:none text:b drop > open, message b, close 1006 > hello
no sessions: nothing is counted > open welcome:none text:b send:a > open, message b > hello a
open: messages from the hello on are counted > open send:a send:b welcome ack:1:1 drop next resumed:1:1 >
    open, detached, resumed > hello a b | resume b
open: messages are acknowledged > open welcome text:b got:ack > open, message b > hello ack:1
open: close tells the server first > open welcome close > open, close 1000 > hello gone (1000)
open: what is sent after close is dropped > open welcome close+ send:a > open, close 1000 > hello gone (1000)
open: close with a code > open welcome close:4001:bye > open, close 4001 bye > hello gone (4001)
open: a reason that is too long > open welcome throws:4000:long send:a > open, SyntaxError > hello a
open: a close code that is not allowed > open welcome throws:1001 send:a > open, InvalidAccessError > hello a
open: a second welcome changes nothing > open welcome welcome:none drop next resumed:0:0 > open, detached, resumed >
    hello | resume
open: control messages of other times >
    open welcome gone resumed:7:7 say:welcome say:alive say:hello say:resume text:b > open, message b > hello
open: credit, limits and drain are counted, and stay inside > open welcome say:credit say:limits say:drain got:ack >
    open > hello ack:3
open: a control message with other fields is a message >
    open welcome text:{"ws-wrapper":false,"wsrpc":{"t":"ack"},"x":1} >
    open, message {"ws-wrapper":false,"wsrpc":{"t":"ack"},"x":1} > hello
open: a false acknowledgement > open welcome send:a ack:2:1 > open, close 4400 the counts differ > hello a (4400)
open: an acknowledgement of false bytes > open welcome send:a ack:1:2 > open, close 4400 the counts differ >
    hello a (4400)
open: an acknowledgement that goes back > open welcome send:a ack:1:1 ack:0:0 > open, close 4400 the counts differ >
    hello a (4400)
open: an acknowledgement that is no number > open welcome send:a ack:x:x > open, close 4400 the counts differ >
    hello a (4400)
open: a server that cannot be probed > open welcome:noprobe 12@end > open > hello
open: close code CODE ends it > open welcome shut:CODE > open, close CODE > hello (CODE)
open: close code CODE does not > open welcome shut:CODE next resumed:0:0 > open, detached, resumed >
    hello (CODE) | resume
open: the clock is set by CODE s, and the connection dies in silence >
    open welcome clock:CODE send:a next resumed:1:1 > open, resumed > hello a probe (4412) | resume
open: close code 1001, and the server has ended the session > open welcome shut:1001 next gone >
    open, detached, close 1006 not resumed: expired > hello (1001) | resume (1000)
detached: what is sent waits > open welcome send:a hold drop send:b release next resumed:0:0 send:c >
    open, detached, resumed > hello a | resume a b c
detached: what has arrived is not sent again > open welcome send:a send:b drop next resumed:1:1 >
    open, detached, resumed > hello a b | resume b
detached: close > DETACHED close:4001:bye > open, detached, close 4001 bye > hello
detached: too long > open welcome:0.4 refuse drop until:close > open, detached, close 1006 not resumed in time > hello
detached: a far end is no end > open welcome:1e12 drop next resumed:0:0 > open, detached, resumed > hello | resume
detached: an attempt is refused, and the next one is not > DETACHED dialed allow next resumed:0:0 >
    open, detached, resumed > hello | resume
detached: credentials cannot be had for a while > open:fails=1 welcome drop > open, detached > hello
detached: credentials never come > open:hangs=1 welcome:2 drop until:close >
    open, detached, close 1006 not resumed in time > hello
resuming: resumed > RESUMING resumed:0:0 text:b > open, detached, resumed, message b > hello | resume
resuming: what is sent waits > RESUMING send:a resumed:0:0 > open, detached, resumed > hello | resume a
resuming: gone > RESUMING gone gone welcome > open, detached, close 1006 not resumed: expired > hello | resume (1000)
resuming: gone for 3,000 characters > RESUMING gone:long > open, detached, close 1006 not resumed: xxx >
    hello | resume (1000)
resuming: a wrong answer > RESUMING text:b > open, detached, close 1006 not resumed: no answer > hello | resume (1000)
resuming: a control message of another time > RESUMING say:alive > open, detached, close 1006 not resumed: no answer >
    hello | resume (1000)
resuming: no answer, twice > RESUMING next next resumed:0:0 > open, detached, resumed >
    hello | resume (4412) | resume (4412) | resume
resuming: it drops again > RESUMING drop next resumed:0:0 > open, detached, resumed > hello | resume | resume
resuming: the answer is lost > RESUMING resumed+:0:0 drop next resumed:0:0 >
    open, detached, resumed, detached, resumed > hello | resume | resume
resuming: false counts > RESUMING resumed:1:0 > open, detached, close 4400 the counts differ > hello | resume (4400)
resuming: false counts of messages that nobody has got > RESUMING send:a resumed:1:1 >
    open, detached, close 4400 the counts differ > hello | resume (4400)
resuming: close > RESUMING close:4001:bye > open, detached, close 4001 bye > hello | resume (4001)
resuming: too long > open welcome:4 drop next until:close > open, detached, close 1006 not resumed in time >
    hello | resume (1000)
resuming: close code CODE ends it > RESUMING shut:CODE > open, detached, close CODE > hello | resume (CODE)
resuming: close code CODE does not > RESUMING shut:CODE next resumed:0:0 > open, detached, resumed >
    hello | resume (CODE) | resume
closed: nothing more happens > open welcome close until:close send:a close close:4001 > open, close 1000 >
    hello gone (1000)
connecting: the page wakes up > hold open wake:online show >  >
plain: the page wakes up > open wake:online show > open > hello
no sessions: the page wakes up > open welcome:probe wake:online say:alive > open > hello probe
open: the page is seen again > open welcome hide show say:alive > open > hello probe
open: the page is hidden > open welcome hide > open > hello
open: the network is back while the page is hidden > open welcome hide wake:online next resumed:0:0 > open, resumed >
    hello probe (4412) | resume
open: the network is back > open welcome wake:online next resumed:0:0 > open, resumed > hello probe (4412) | resume
open: the network is back, and the connection is not lost >
    open welcome hold wake:online say:alive text:b release text:c > open, message b, message c > hello probe | (1000)
open: the page was frozen > open welcome thaw next resumed:0:0 > open, resumed > hello probe (4412) | resume
open: the machine was asleep > open welcome clock:3600 wake:pageshow next resumed:0:0 > open, resumed >
    hello probe (4412) | resume
open: the clock was set back > open welcome clock:-3600 wake:pageshow say:alive > open > hello probe
open: the page freezes > open welcome freeze > open, detached > hello (4412)
open: the page freezes and thaws > open welcome hide freeze thaw next resumed:0:0 > open, detached, resumed >
    hello (4412) | resume
plain: the page freezes > open freeze > open > hello
detached: the network is back > DETACHED dialed allow wake:online next resumed:0:0 > open, detached, resumed >
    hello | resume
resuming: the network is back > RESUMING wake:online wake:pageshow resumed:0:0 > open, detached, resumed >
    hello | resume
closed: the network is back > open welcome close until:close wake:online > open, close 1000 > hello gone (1000)
connecting: the page is left > hold open leave > close 1006 closed >
open: the page is left > open welcome leave > open, close 1000 > hello gone (1000)
open: the page may come back > open welcome keep > open, detached > hello (4412)
open: the page comes back > open welcome keep send:a wake:pageshow next resumed:0:0 > open, detached, resumed >
    hello (4412) | resume a
resuming: the page may come back > RESUMING keep > open, detached > hello | resume (4412)
plain: the page may come back > open keep > open > hello
plain: many messages end nothing, and a session that begins later ends with its connection >
    open:buffer=1000 many:3:400 welcome send:y drop > open, close 1006 > hello xxx xxx xxx gone y
open: a message above the bound is sent, but no other one after it >
    open:buffer=1000 welcome many:1:5000 send:y > open, close 4408 too much waits to be sent > hello xxx (4408)
plain: a token that cannot become a text > open odd:welcome:token > open > hello
plain: a time that cannot become a text > open odd:welcome:ttl > open > hello
open: a count that cannot become a text > open welcome odd:ack:n > open, close 4400 the counts differ > hello (4400)
resuming: a reason that cannot become a text > RESUMING odd:gone:why >
    open, detached, close 1006 not resumed: [object Object] > hello | resume (1000)
resuming: a count that cannot become a text > RESUMING odd:resumed:rx > open, detached, close 4400 the counts differ >
    hello | resume (4400)
resuming: a token that cannot become a text > RESUMING odd:resumed:token > open, detached, resumed > hello | resume
"""
CODES = {
    "open: close code CODE ends it": (1000, 1008, 1011, 1012, 1013, 3000, 3003, 4000, 4400, 4409, 4410),
    "open: close code CODE does not": (1001, 4411),
    "open: the clock is set by CODE s, and the connection dies in silence": (-3600, -30 * 86400, 3600),
    "resuming: close code CODE ends it": (1008, 3000, 3003, 4410),
    "resuming: close code CODE does not": (1001, 1012, 4411),
}
SHORT = {"RESUMING": "open welcome drop next", "DETACHED": "open welcome refuse drop"}
CONNECTING, OPEN, CLOSED = 0, 1, 3


def rows() -> dict[str, tuple[str, str, str]]:
    """The steps, the events and the wire of each row."""
    found: dict[str, tuple[str, str, str]] = {}
    for row in ROWS.strip().replace("\n    ", " ").splitlines():
        name, *cells = (cell.strip() for cell in row.split(" >"))
        for code in map(str, CODES.get(name, ("",))):
            steps, events, wire = (cell.replace("CODE", code) for cell in cells)
            found[name.replace("CODE", code)] = re.sub("[A-Z]{8}", lambda short: SHORT[short[0]], steps), events, wire
    return found


async def test_a_session_in_each_state() -> None:
    table = rows()
    played = dict(zip(table, await play(*(steps for steps, _, _ in table.values())), strict=True))
    seen = {name: tuple(re.sub("xxx+", "xxx", row[of]) for of in ("events", "wired")) for name, row in played.items()}
    assert seen == {name: (events, wire) for name, (_, events, wire) in table.items()}
    for name, (_, events, _) in table.items():
        state = CLOSED if ", close " in f", {events}" else OPEN if events else CONNECTING
        assert played[name]["state"] == state, name
