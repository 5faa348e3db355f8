"""Tools for testing applications and peers, without a network or with a bad one.

`connect` gives you a client that is connected to a server in memory, and `pair` two peers that are connected to each
other. Both are real: every message is encoded, carried and decoded as over a WebSocket. `Line` is such a way between
clients and a server that tests can cut. `ScriptedTransport` plays the remote peer from a script. `Clock` is time under
the test's control. `FaultProxy` stands between a client and a server, on real sockets, and causes network trouble.
`simulate` runs a whole application, under virtual time, while processes are killed and networks fail.
"""

from ._clock import Clock
from ._connect import Line, connect, pair
from ._fault_proxy import FaultProxy
from ._memory import MemoryTransport, memory_transports
from ._scripted import ScriptedTransport
from ._simulation.simulate import SimulationFailed, simulate
from ._simulation.simulation import Simulation

__all__ = [
    "Clock",
    "FaultProxy",
    "Line",
    "MemoryTransport",
    "ScriptedTransport",
    "Simulation",
    "SimulationFailed",
    "connect",
    "memory_transports",
    "pair",
    "simulate",
]
