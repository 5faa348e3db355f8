"""Sessions that survive cuts: wsrpc, and Socket.IO 4 with connection state recovery, through the same proxy."""
