"""Clusters: several server processes that act as one."""

from ._cluster.calls import ClusterPeer, ClusterPeerChannel
from ._cluster.cluster import Cluster, ClusterClient, ClusterRoom, ClusterRoomChannel
from ._cluster.memory_engine import MemoryEngine

__all__ = [
    "Cluster",
    "ClusterClient",
    "ClusterPeer",
    "ClusterPeerChannel",
    "ClusterRoom",
    "ClusterRoomChannel",
    "MemoryEngine",
]
