"""Tools for testing applications and peers, without a network or with a bad one.

`connect` gives you a client that is connected to a server in memory, and `pair` two peers that are connected to each
other. Both are real: every message is encoded, carried and decoded as over a WebSocket. `Line` is such a way between
clients and a server that tests can cut. `ScriptedTransport` plays the remote peer from a script. `VirtualTimeLoop` is
an event loop in which waiting takes no time. `FaultProxy` stands between a client and a server, on real sockets, and
causes network trouble. `simulate` runs a whole application, under virtual time, while processes are killed and networks
fail.
`STORE_CHECKS` are the contract of `wsrpc.store`, for a store of your own, and `ENGINE_CHECKS` that of
`wsrpc.cluster.engine`, for an engine of your own.
"""

from .._net.memory_transport import MemoryTransport, memory_transports
from ._connect import Line, connect, pair
from ._engine_checks import ENGINE_CHECKS
from ._fault_proxy import FaultProxy
from ._scripted import ScriptedTransport
from ._simulation.simulate import SimulationFailed, simulate
from ._simulation.simulation import Simulation
from ._store_checks import STORE_CHECKS
from ._virtual_time import VirtualTimeLoop

__all__ = [
    "ENGINE_CHECKS",
    "STORE_CHECKS",
    "FaultProxy",
    "Line",
    "MemoryTransport",
    "ScriptedTransport",
    "Simulation",
    "SimulationFailed",
    "VirtualTimeLoop",
    "connect",
    "memory_transports",
    "pair",
    "simulate",
]
