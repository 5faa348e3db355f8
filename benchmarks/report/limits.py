"""The section about the costs behind the limits. Its figures were measured once, apart from the runs of the page."""

from __future__ import annotations

LIMITS = """\
## Costs behind the limits

The tables of this section are not part of the run above. They give the reasons for defaults of
[`Limits`](../reference/limits.md), and were measured on a machine of the same kind, with CPython 3.11.

### A client beside floods

`make bench ARGS=--floods` measures the latency of a client while another client floods the server. All figures are
99th percentiles in milliseconds, from 2 s for each flood. The attackers run at the lowest priority, because they
share a core with the measured client. "Equal priority" is without that. "Of the server" is how late the turns of the
server's event loop came because of its own work. "`websockets`" is a bare echo server under the same flood.

| flood | no flood | flood | of the server | equal priority | `websockets` |
|---|--:|--:|--:|--:|--:|
| 1,000 incomplete handshakes | 1 | 2 | 0 | 5 | 2 |
| 1,000 handshakes of one byte a second | 5 | 3 | 1 | 3 | 2 |
| handshakes, 50 at a time | 1 | 22 | 10 | 28 | 27 |
| handshakes that are refused and logged | 1 | 9 | 5 | 6 | 95 |
| requests and their cancellations | 1 | 29 | 31 | 32 | 836 |
| joins of rooms | 2 | 38 | 39 | 34 | 423 |
| unknown events | 1 | 17 | 13 | 12 | 913 |
| unknown requests | 1 | 13 | 15 | 17 | 506 |
| messages of 1 MiB | 1 | 6 | 6 | 7 | 10 |

If other programs use the cores too, latencies are higher: at a load average of 7 to 11, 189 ms with handshakes, 240 ms
with cancellations, and less than 100 ms with the others. Python's garbage collector causes part of the server's own
delay: it stops the process for 20 to 40 ms after some hundred handshakes. After the floods, the process had at most
20 MiB more memory than before.

### Decoding

`Limits.message` alone does not bound the cost of a message. 4 MiB contain at most, decoded by msgspec 0.22:

| 4 MiB of | values | time | memory |
|---|--:|--:|--:|
| one text | 1 | 7 ms | 4 MB |
| floats in MessagePack | 466,000 | 28 ms | 14 MB |
| one-byte numbers in MessagePack | 4,194,000 | 60 to 190 ms | 32 to 161 MB |
| short texts in MessagePack | 1,398,000 | 155 ms | 96 MB |
| empty arrays in MessagePack | 4,194,000 | 1,500 ms | 293 MB |

`Limits.values` therefore bounds the number of values. Its default, 1,310,720, accepts a picture of a million points as
numbers, 250 embeddings of 1,536 floats, 270,000 edges such as `[1,2]`, and 210,000 points such as
`{"x":12.5,"y":7.25}`. It refuses more than 327,680 arrays and objects in a message. The most expensive messages that it
accepts:

| message | values | counting | decoding | memory |
|---|--:|--:|--:|--:|
| 327,680 empty arrays in MessagePack | 327,680 | 30 ms | 25 ms | 22 MB |
| 270,000 edges in JSON | 810,000 | 5 ms | 30 to 110 ms | 28 MB |
| 210,000 points in JSON | 1,050,000 | 9 ms | 60 to 90 ms | 52 MB |
| 327,680 objects of one text, and as many texts, in MessagePack | 1,310,720 | 140 to 180 ms | 140 to 200 ms | 123 MB |
| 1,310,720 texts of two bytes in MessagePack | 1,310,720 | 2 ms | 120 to 240 ms | 116 MB |
| one object with 420,000 keys in JSON | 840,000 | 10 to 65 ms | 170 to 210 ms | 53 MB |
| one object with 520,000 keys in MessagePack | 1,050,000 | 150 to 250 ms | 170 to 290 ms | 59 MB |

Values are counted before a message is decoded, and only in messages with more bytes than a quarter of the bound. In
JSON, counting takes 12 ms for 4 MiB, and 60 ms for a message that is made to be slow. In MessagePack, it takes less
than a microsecond for a value, almost nothing for a large array of numbers of one kind, and stops at the bound.
"""
