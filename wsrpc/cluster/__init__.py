"""Clusters: several server processes that act as one."""

from ._away.submitted_call import SubmittedCall, WaitingCall, WaitingCalls
from ._cluster import Cluster, ClusterClient
from ._cluster_peer import ClusterPeer, ClusterPeerChannel
from ._cluster_room import ClusterRoom, ClusterRoomChannel
from ._memory_engine import MemoryEngine

__all__ = [
    "Cluster",
    "ClusterClient",
    "ClusterPeer",
    "ClusterPeerChannel",
    "ClusterRoom",
    "ClusterRoomChannel",
    "MemoryEngine",
    "SubmittedCall",
    "WaitingCall",
    "WaitingCalls",
]
