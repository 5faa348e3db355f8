"""The section about the costs behind the limits. Its figures were measured once, apart from the runs of the page."""

from __future__ import annotations

LIMITS = """\
## Costs behind the limits

The figures in this section are the reasons for some of the defaults in [Limits](../reference/limits.md). They are not
part of the run above, but were measured on a machine of the same kind, with CPython 3.11.

### A client beside floods

`make bench ARGS=--floods` measures the latency of a client while attackers flood the server. All figures in the table
are 99th percentiles in milliseconds, measured for 2 s in each flood:

- **no flood** and **flood**: the latency of the client without and with the flood. The attackers share a core with the
  client. Attackers of a real server do not, so the attackers run at the lowest priority.
- **delay in the server**: how late the event loop of the server ran because of the server's own work.
- **equal priority**: as *flood*, but the attackers run at the same priority as the client.
- **`websockets`**: as *flood*, but the server is a bare `websockets` echo.

| flood | no flood | flood | delay in the server | equal priority | `websockets` |
|---|--:|--:|--:|--:|--:|
| 1,000 incomplete handshakes | 1 | 2 | 0 | 5 | 2 |
| 1,000 handshakes that send one byte a second each | 5 | 3 | 1 | 3 | 2 |
| complete handshakes, 50 at a time | 1 | 22 | 10 | 28 | 27 |
| handshakes that the server refuses and logs | 1 | 9 | 5 | 6 | 95 |
| requests, each followed by its cancellation | 1 | 29 | 31 | 32 | 836 |
| requests to join rooms | 2 | 38 | 39 | 34 | 423 |
| unknown events | 1 | 17 | 13 | 12 | 913 |
| unknown requests | 1 | 13 | 15 | 17 | 506 |
| messages of 1 MiB | 1 | 6 | 6 | 7 | 10 |

If other programs use the same cores, latencies are higher. At a load average of 7 to 11, the 99th percentile was 189 ms
with complete handshakes, 240 ms with cancellations, and less than 100 ms with the other floods.

Python's garbage collector causes part of the delay in the server, because it stops the process for 20 to 40 ms after
a few hundred handshakes. After all floods, the server used at most 20 MiB more memory than before them.

### Decoding

Messages of the same size can differ widely in the cost of decoding them. `Limits.message` limits only the size, so it
does not limit this cost. The following table shows the most values that a message of 4 MiB can contain, and what
msgspec 0.22 needs to decode it:

| 4 MiB of | values | time | memory |
|---|--:|--:|--:|
| one string | 1 | 7 ms | 4 MB |
| floats in MessagePack | 466,000 | 28 ms | 14 MB |
| one-byte numbers in MessagePack | 4,194,000 | 60 to 190 ms | 32 to 161 MB |
| short strings in MessagePack | 1,398,000 | 155 ms | 96 MB |
| empty arrays in MessagePack | 4,194,000 | 1,500 ms | 293 MB |

`Limits.values` therefore limits the number of values in a message. Its default is 1,310,720. At most a quarter of them,
327,680, can be arrays and objects. Each of the following messages is below the limit:

- a picture of a million points, each of which is a number
- 250 embeddings of 1,536 floats
- 270,000 edges of a graph such as `[1,2]`
- 210,000 points such as `{"x":12.5,"y":7.25}`

The following table shows the most expensive messages that the default accepts:

| message | values | time to count them | time to decode | memory |
|---|--:|--:|--:|--:|
| 327,680 empty arrays in MessagePack | 327,680 | 30 ms | 25 ms | 22 MB |
| 270,000 edges in JSON | 810,000 | 5 ms | 30 to 110 ms | 28 MB |
| 210,000 points in JSON | 1,050,000 | 9 ms | 60 to 90 ms | 52 MB |
| 327,680 objects `{"ab":"cd"}`, 327,680 strings in MessagePack | 1,310,720 | 140 to 180 ms | 140 to 200 ms | 123 MB |
| 1,310,720 strings of two bytes in MessagePack | 1,310,720 | 2 ms | 120 to 240 ms | 116 MB |
| one object with 420,000 keys in JSON | 840,000 | 10 to 65 ms | 170 to 210 ms | 53 MB |
| one object with 520,000 keys in MessagePack | 1,050,000 | 150 to 250 ms | 170 to 290 ms | 59 MB |

wsrpc counts the values before it decodes a message, but only if the size of the message in bytes is more than a quarter
of `Limits.values`. In JSON, counting usually takes 12 ms for 4 MiB, and 60 ms for a message that is designed to be
slow. In MessagePack, counting takes less than a microsecond for each value, and almost no time for a large array of
numbers of the same type. Counting stops when the limit is reached.
"""
