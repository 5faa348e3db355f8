"""Time limits of different modules that hold only together: the shorter one must end before the longer one.

None of them is an option, except for the lease of a store, of which the default is meant.
"""

import pytest

from wsrpc._client.client_room import JOIN_TIMEOUT
from wsrpc._log import link
from wsrpc._log.contract import LEASE
from wsrpc._log.link import SILENT, STORE_TIMEOUT
from wsrpc._server.presence.presence_reports import HEARING, TRACKED
from wsrpc.cluster._addresses import CROSSING
from wsrpc.cluster._nodes.directory import NODE_TIMEOUT
from wsrpc.cluster._nodes.engine_link import OVERDUE, PAUSES, RESUBSCRIBE_AFTER
from wsrpc.cluster._nodes.node import BEAT, TICK
from wsrpc.cluster.engine import PROBE, RESPONSE_TIMEOUT

ORDER = {
    "two beats of another node may be lost before it counts as ended": (3 * BEAT, NODE_TIMEOUT),
    "one of its own beats may be lost before a node suspects that it receives nothing": (2 * BEAT, OVERDUE),
    "a node suspects that it receives nothing before it takes others for ended": (OVERDUE + TICK, NODE_TIMEOUT),
    "a node subscribes again if it receives nothing, not before it suspects so": (OVERDUE, RESUBSCRIBE_AFTER),
    "a node that has lost its broker is back before others take it for ended": (
        PROBE + RESPONSE_TIMEOUT + max(PAUSES),
        NODE_TIMEOUT,
    ),
    "a beat comes while the end of a session may be on its way": (BEAT, CROSSING),
    "what others have reported arrives before `on_presence` is called again": (BEAT, HEARING),
    "the end of a node is noticed while its users are tracked": (NODE_TIMEOUT + TICK, TRACKED),
    "a client asks again before a room's store is given up": (JOIN_TIMEOUT, STORE_TIMEOUT),
    "a store that does not answer is reported before callers give up": (SILENT, STORE_TIMEOUT),
    "a step is asked for twice before a lease lapses": (2 * 10 * link.RETRY, LEASE),
    "the lease of a process lasts longer than it takes others to notice its end": (NODE_TIMEOUT + TICK, LEASE),
}


@pytest.mark.parametrize("why", ORDER)
def test_one_time_limit_ends_before_another(why: str) -> None:
    shorter, longer = ORDER[why]
    assert shorter < longer, why
