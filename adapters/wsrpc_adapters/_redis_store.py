"""`RedisStore`: keeps the runs of keyed calls in Redis or Valkey, with the library redis-py.

A run has a hash with its state, a stream with its items, and a sorted set of its readers. A payer has a sorted set of
its runs, and a hash with their bytes. Each step is one call of a script, so it happens completely or not at all, by the
clock of Redis. Every key expires. The script publishes each change of a run. Readers that wait subscribe to this, and
read again after a change. If a message is lost, they read again later.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from time import monotonic
from typing import Any
from urllib.parse import parse_qs, urlsplit

from wsrpc.cluster.engine import PATIENCE
from wsrpc.store import LEASE, PAGE_BYTES, SHORT_END, AdoptedRun, NewRun, Page, RunGone, RunState, StoreFull, StoreLost

from ._broker_connection import error_text, host_of, refuse_options

try:
    from redis.asyncio import BlockingConnectionPool, Redis
    from redis.asyncio.retry import Retry
    from redis.backoff import NoBackoff
    from redis.exceptions import RedisError
except ImportError as exc:
    raise ImportError("wsrpc_adapters.redis needs redis-py: pip install python-wsrpc[redis]") from exc

CONNECTIONS = 8
"""Number of connections. One of them has the subscriptions."""

RENEWED_TOGETHER = 200
"""Number of claims that are renewed in one step, during which Redis does nothing else."""

SET_HERE = frozenset(
    {
        "decode_responses",
        "health_check_interval",
        "max_connections",
        "protocol",
        "retry",
        "retry_on_error",
        "retry_on_timeout",
        "socket_connect_timeout",
        "socket_timeout",
        "timeout",
    }
)
"""Options of connections that `RedisEngine` and `RedisStore` set."""

STEPS = """
local PREFIX, STEP = ARGV[1], ARGV[2]
local ITEM, RUN = 32, 4096  -- bytes that an item and a run take besides their own
local call, time = redis.call, redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)

local function name(kind, text)
  return PREFIX .. kind .. ':' .. text
end

local function find(key)
  local packed = call('GET', name('run', key))
  return packed and cmsgpack.unpack(packed)
end

local function state(run)
  local readers = call('ZCOUNT', name('readers', run.key), now, '+inf')
  local lost = not run.ending and run.lapses <= now
  return {run.id, run.arguments, run.first, run.last, run.ending, run.stopping, readers, lost and 1 or 0}
end

local function outlive(key, ms)
  if call('PTTL', key) < ms then call('PEXPIRE', key, ms) end
end

local function save(run, ms)
  call('SET', name('run', run.key), cmsgpack.pack(run), 'PX', ms)
  call('PEXPIRE', name('items', run.key), ms)
  call('ZADD', name('runs', run.payer), now + ms, run.key)
  outlive(name('runs', run.payer), ms)
  outlive(name('bytes', run.payer), ms)
  outlive(name('topic', run.topic), ms)
end

local function renew(run)
  run.lapses = now + LEASE
  save(run, LEASE + run.keep)
end

local function charge(run, bytes)
  call('HINCRBY', name('bytes', run.payer), run.key, bytes)
  call('HINCRBY', name('bytes', run.payer), ':all', bytes)
end

local function excess(payer)  -- the bytes that the payer has too many, after its expired runs were dropped
  local runs, bytes = name('runs', payer), name('bytes', payer)
  for _, key in ipairs(call('ZRANGEBYSCORE', runs, '-inf', now)) do
    call('HINCRBY', bytes, ':all', -(call('HGET', bytes, key) or 0))
    call('HDEL', bytes, key)
    call('ZREM', runs, key)
  end
  return (call('HGET', bytes, ':all') or 0) - PAYER_BYTES
end

local function trim(run, too_much, too_long)  -- drops the oldest items; if the run is only too long, not the last
  local items, freed = name('items', run.key), 0
  while run.first <= run.last and (freed < too_much or (freed < too_long and run.first < run.last)) do
    local oldest = call('XRANGE', items, run.first .. '-0', '+', 'COUNT', 1)[1]
    freed = freed + ITEM + (oldest and #oldest[2][2] or 0)
    run.first = run.first + 1
  end
  if freed > 0 then
    call('XTRIM', items, 'MAXLEN', run.last + 1 - run.first)
    run.bytes = run.bytes - freed
    charge(run, -freed)
  end
end

local steps = {}

function steps.start(key, id, arguments, payer, topic, keep, payload, held)
  local run = find(key)
  if run then return state(run) end
  local cost = RUN + SHORT_END + held + #arguments + #payer + #topic + #payload
  if excess(payer) + cost > 0 or call('ZCARD', name('runs', payer)) >= PAYER_RUNS then return 'full' end
  call('DEL', name('items', key), name('readers', key))
  run = {key = key, id = id, arguments = arguments, payer = payer, topic = topic, payload = payload,
    held = tonumber(held), keep = tonumber(keep), first = 1, last = 0, bytes = 0, ending = false, stopping = 0}
  charge(run, cost)
  if topic ~= '' then call('SADD', name('topic', topic), key) end
  renew(run)
  return state(run)
end

function steps.append(key, id, number)
  local run = find(key)
  if not run or run.id ~= id or run.ending or tonumber(number) > run.last + 1 then return 'gone' end
  local before = run.bytes
  for i = 7 + run.last - number, #ARGV do
    run.last = run.last + 1
    call('XADD', name('items', key), run.last .. '-0', '', ARGV[i])
    run.bytes = run.bytes + ITEM + #ARGV[i]
  end
  if run.bytes > before then
    charge(run, run.bytes - before)
    trim(run, excess(run.payer), run.bytes - RUN_BYTES)
    call('PUBLISH', name('run', key), 'item')
  end
  renew(run)
  return state(run)
end

steps['end'] = function(key, id, ending, last)
  local run = find(key)
  if not run or run.id ~= id then return 'gone' end
  if run.ending then return end
  if last ~= '' and tonumber(last) ~= run.last then return 'gone' end
  local more = math.max(0, #ending - SHORT_END) - run.held
  local too_much = more > 0 and excess(run.payer) + more or 0
  if too_much > run.bytes then return 'full' end
  trim(run, too_much, 0)
  charge(run, more)
  run.ending = ending
  call('SREM', name('topic', run.topic), key)
  save(run, run.keep)
  call('PUBLISH', name('run', key), 'end')
end

function steps.read(key, after, reader, ms)
  local run = find(key)
  if not run then return end
  if reader ~= '' then
    call('ZREMRANGEBYSCORE', name('readers', key), '-inf', now)
    call('ZADD', name('readers', key), now + ms, reader)
    outlive(name('readers', key), tonumber(ms))
  end
  local number, items, size, entries = math.max(after + 1, run.first), {}, 0, {}
  if number <= run.last then
    entries = call('XRANGE', name('items', key), number .. '-0', '+', 'COUNT', 256)
    if not entries[1] or entries[1][1] ~= number .. '-0' then return end  -- Redis has evicted it
  end
  for i, entry in ipairs(entries) do
    if size >= PAGE_BYTES then break end
    items[i] = entry[2][2]
    size = size + #items[i]
  end
  return {state(run), number, items}
end

function steps.leave(key, reader)
  call('ZREM', name('readers', key), reader)
end

function steps.stop(key, id)
  local run = find(key)
  if not run or run.id ~= id then return end
  run.stopping = 1
  save(run, call('PTTL', name('run', key)))
end

function steps.renew(...)
  local runs, states = {...}, {}
  for i = 1, #runs, 2 do
    local run = find(runs[i])
    if run and run.id == runs[i + 1] then
      if not run.ending then renew(run) end
      table.insert(states, {run.key, state(run)})
    end
  end
  return states
end

function steps.adopt(topic)
  local adopted = {}
  for _, key in ipairs(call('SMEMBERS', name('topic', topic))) do
    local run = find(key)
    if not run or run.topic ~= topic then
      call('SREM', name('topic', topic), key)
    elseif run.lapses <= now then
      renew(run)
      table.insert(adopted, {key, run.id, run.payload})
    end
  end
  return adopted
end

return steps[STEP](unpack(ARGV, 3, math.min(#ARGV, 500)))  -- append may have more, and reads them itself
"""
"""Script of which each call is one step, with the prefix of all keys, the name of the step, and its arguments."""


class RedisStore:
    """Redis or Valkey server as the store of a `Server` or `Client`. Redis Cluster is not supported.

    The server must not evict keys before they expire: set ``maxmemory-policy noeviction``.

    Args:
        url: a ``redis://``, ``rediss://`` (TLS) or ``unix://`` URL, with a user and password if the server needs them.
        name: the beginning of the names of all keys and channels. Applications with different names share nothing.
        run_bytes: the maximum size of the kept items of one run.
        payer_bytes: the maximum size of the runs of one payer.
        payer_runs: the maximum number of runs of one payer.
        lease: seconds for which a process claims a run. It renews the claim more often.
        options: options of ``redis.asyncio`` connections, as for `RedisEngine`.

    Raises:
        TypeError: one of the options is set by the store itself.
        ValueError: the URL is not valid.
    """

    def __init__(
        self,
        url: str,
        *,
        name: str = "wsrpc",
        run_bytes: int = 1 << 20,
        payer_bytes: int = 16 << 20,
        payer_runs: int = 1000,
        lease: float = LEASE,
        **options: Any,
    ) -> None:
        self.lease = lease
        self._host = host_of(url)
        refuse_options("RedisStore", options.keys() | parse_qs(urlsplit(url).query).keys(), SET_HERE)
        pool_class: Any = BlockingConnectionPool
        self._pool: Any = pool_class.from_url(
            url,
            **options,
            max_connections=CONNECTIONS,
            timeout=PATIENCE,
            socket_timeout=None,
            socket_connect_timeout=PATIENCE,
            retry=Retry(NoBackoff(), 1),  # a connection of the pool may be over, and every step can be repeated
            protocol=2,
        )
        client: Any = Redis(connection_pool=self._pool)
        self._prefix = f"{name}:"
        self._script = client.register_script(
            "local LEASE, RUN_BYTES, PAYER_BYTES, PAYER_RUNS, PAGE_BYTES, SHORT_END = "
            f"{_ms(lease)}, {run_bytes}, {payer_bytes}, {payer_runs}, {PAGE_BYTES}, {SHORT_END}{STEPS}"
        )
        self._changes = Changes(client)

    def __repr__(self) -> str:
        return f"RedisStore({self._host})"

    async def _step(self, name: str, *words: str | bytes | int) -> Any:
        async with answering():
            reply = await self._script(args=(self._prefix, name, *words))
        if reply == b"gone":
            raise RunGone("the store has no such run any more, or has lost some of its items")
        if reply == b"full":
            raise StoreFull("the store has no room for a run of this payer, or for its end")
        return reply

    async def start(self, key: str, run: NewRun, /) -> RunState:
        new = (run.id, run.arguments, run.payer, run.topic, _ms(run.keep), run.payload, run.held)
        return _state(await self._step("start", key, *new))

    async def append(self, key: str, id: str, number: int, items: Sequence[bytes], /) -> RunState:
        return _state(await self._step("append", key, id, number, *items))

    async def end(self, key: str, id: str, end: bytes, /, *, last: int | None = None) -> None:
        await self._step("end", key, id, end, "" if last is None else last)

    async def read(self, key: str, after: int, /, *, reader: str = "", wait: float = 0.0) -> Page | None:
        channel = self._channel(key)
        tail = self._changes.tails.get(channel)
        if tail is not None and tail.counted.get(reader, 0.0) > monotonic():
            page = await self._shared_page(tail, key, after)
        else:
            page = await self._page(key, after, reader, wait)
            if tail is not None:
                tail.counted[reader] = monotonic() + self.lease / 2
        if wait <= 0 or page is None or page.items or page.state.end is not None or page.state.last > after:
            return page
        if tail is None:
            tail = await self._changes.subscribe(channel)
        await asyncio.wait((tail.changed,), timeout=wait)
        return await self._shared_page(tail.changed.result() if tail.changed.done() else tail, key, after)

    async def _shared_page(self, tail: Tail, key: str, after: int) -> Page | None:
        """Read once for all readers that do so at the same time."""
        if after not in tail.pages:
            tail.pages[after] = asyncio.ensure_future(self._page(key, after, "", 0.0))
            tail.pages[after].add_done_callback(lambda _: tail.pages.pop(after))
        return await asyncio.shield(tail.pages[after])

    async def _page(self, key: str, after: int, reader: str, wait: float) -> Page | None:
        # Longer than the contract says, because a reader is counted again only after half a lease.
        reply = await self._step("read", key, after, reader, _ms(wait + 1.5 * self.lease))
        return None if reply is None else Page(_state(reply[0]), reply[1], reply[2])

    def _channel(self, key: str) -> str:
        return f"{self._prefix}run:{key}"

    async def leave(self, key: str, reader: str, /) -> None:
        if (tail := self._changes.tails.get(self._channel(key))) is not None:
            tail.counted.pop(reader, None)
        await self._step("leave", key, reader)

    async def stop(self, key: str, id: str, /) -> None:
        await self._step("stop", key, id)

    async def renew(self, runs: Mapping[str, str], /) -> Mapping[str, RunState]:
        words = [word for run in runs.items() for word in run]
        states: dict[str, RunState] = {}
        for start in range(0, len(words), 2 * RENEWED_TOGETHER):
            reply = await self._step("renew", *words[start : start + 2 * RENEWED_TOGETHER])
            states |= {key.decode(): _state(state) for key, state in reply}
        return states

    async def adopt(self, topic: str, /) -> Sequence[AdoptedRun]:
        reply = await self._step("adopt", topic)
        return [AdoptedRun(key.decode(), id.decode(), payload) for key, id, payload in reply]

    async def close(self) -> None:
        await self._changes.close()
        with suppress(RedisError):  # a server that does not answer
            await self._pool.disconnect()


class Tail:
    """What the readers of a run share until the run changes.

    Attributes:
        changed: done when the run has changed, with the next tail.
        pages: the reads in progress, by the number after which they read.
        counted: when each reader has to be counted again in Redis. All tails of a run share it.
    """

    def __init__(self, counted: dict[str, float]) -> None:
        self.changed: asyncio.Future[Tail] = asyncio.get_running_loop().create_future()
        self.pages: dict[int, asyncio.Task[Page | None]] = {}
        self.counted = counted


class Changes:
    """Subscriptions to the changes of runs, on one connection for all readers of this process.

    Attributes:
        tails: the present tail of each run, by its channel. Until the run ends, there is a subscription.
    """

    def __init__(self, client: Any) -> None:
        self._client = client
        self.tails: dict[str, Tail] = {}
        self._subscribing = asyncio.Lock()
        self._pubsub: Any = None
        self._listening: asyncio.Task[None] | None = None

    async def subscribe(self, channel: str) -> Tail:
        """Subscribe, and return a tail that changes at once: what happened before is not published to this process."""
        tail = self.tails.setdefault(channel, Tail({}))
        try:
            async with answering(), self._subscribing:
                if self._pubsub is None:
                    self._pubsub = self._client.pubsub()
                await self._pubsub.subscribe(channel)
                if self._listening is None:
                    self._listening = asyncio.create_task(self._listen())
        except BaseException:
            self._notify(channel)
            self.tails.pop(channel, None)
            raise
        return tail

    async def _listen(self) -> None:
        try:
            with suppress(RedisError, OSError):  # readers notice it when they read again
                while True:
                    message = await self._pubsub.get_message(timeout=None)
                    channel = message["channel"].decode()
                    if message["type"] == "subscribe" and channel in self.tails:  # maybe again, of a restarted server
                        self.tails[channel].counted.clear()
                    self._notify(channel)
                    if message["data"] == b"end":
                        self.tails.pop(channel, None)
                        await self._pubsub.unsubscribe(channel)
        finally:
            async with self._subscribing:
                pubsub, self._pubsub, self._listening = self._pubsub, None, None
                for channel in self.tails:
                    self._notify(channel)
                self.tails.clear()
                await pubsub.aclose()

    def _notify(self, channel: str) -> None:
        if (tail := self.tails.get(channel)) is not None:
            self.tails[channel] = Tail(tail.counted)
            tail.changed.set_result(self.tails[channel])

    async def close(self) -> None:
        if self._listening is not None:
            self._listening.cancel()
            await asyncio.wait((self._listening,))


@asynccontextmanager
async def answering() -> AsyncGenerator[None]:
    """Raise `StoreLost` if Redis does not answer within `PATIENCE`, or with an error."""
    try:
        async with asyncio.timeout(PATIENCE):
            yield
    except TimeoutError:
        raise StoreLost(f"Redis does not respond within {PATIENCE:g} s") from None
    except (RedisError, OSError) as exc:
        raise StoreLost(f"Redis: {error_text(exc)}") from exc


def _ms(seconds: float) -> int:
    return max(1, round(1000 * seconds))


def _state(reply: list[Any]) -> RunState:
    id, arguments, first, last, end, stopping, readers, lost = reply
    return RunState(
        id=id.decode(),
        arguments=arguments.decode(),
        first=first,
        last=last,
        end=end,
        stopping=bool(stopping),
        readers=readers,
        lost=bool(lost),
    )
