"""Clusters: several server processes that act as one."""

from ._cluster.calls import ClusterPeer, ClusterPeerChannel
from ._cluster.cluster import Cluster, ClusterClient, ClusterRoom, ClusterRoomChannel

__all__ = [
    "Cluster",
    "ClusterClient",
    "ClusterPeer",
    "ClusterPeerChannel",
    "ClusterRoom",
    "ClusterRoomChannel",
]
