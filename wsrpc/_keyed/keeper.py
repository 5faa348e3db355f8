"""`Keeper`: lets calls of the handlers with ``keep=`` have keys. It joins each such call to a run."""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import AsyncIterator, Callable
from contextlib import suppress
from contextvars import copy_context
from functools import partial
from inspect import Parameter
from typing import Any
from weakref import WeakKeyDictionary, WeakValueDictionary

import msgspec
from msgspec import UNSET, Struct
from msgspec.structs import replace

from .._base.logs import logger
from .._base.names import ChannelRef
from .._core.api.caller import user_channel_of
from .._core.api.peer import Peer
from .._core.channels.source import close_source
from .._core.handlers.compiled import Handler
from .._core.handlers.introspection import Kind, signature_of
from .._core.handlers.invocation import CURRENT, Call, Invocation, KeyedRun
from .._core.handlers.lifecycle import attempted
from .._core.session.sessions import client_of
from .._core.wire.call_context import CallContext, read_call_context
from .._core.wire.codecs import Codec
from .._core.wire.messages import WireMessage, context_of
from .._log.contract import LogState, NewLog, Store
from .._log.kept import encoder_of, hash_of, read_kept
from .._log.link import StoreLink
from .._log.position import RunPosition
from ..errors import BadArguments, ItemsGone, KeyReused, RemoteError, made_here
from .adopter import Adopter, plain_principal
from .performing import HandlerPerformer
from .run import CountedRuns, End, Run
from .run_inbox import Entry, InboxReader, inbox_of
from .runs import ITEMS_LOST, Runs, missing_items


def principal_text(principal: object) -> str | None:
    """Return a text that a principal has in every process. None if it is neither text nor an integer."""
    plain = plain_principal(principal)
    return None if plain is None else f"{type(principal).__name__} {plain!r}"


def key_of(owner: tuple[str, str, str], channel: ChannelRef, event: str, key: str) -> str:
    """Return the key of a run in the store: of an ``"owner"`` or a ``"scope"``, and at a client."""
    return hash_of((owner, channel, event, key))


class Owners:
    """Whose keys are those of the peers of a server, and who pays for what is kept."""

    client = ""
    """The name of a client in a store that others use, too."""

    def __init__(self) -> None:
        self._warned = False

    def owner_of(self, peer: Peer) -> str:
        """Return the owner of the keys of a peer: its principal, or its session.

        Raises:
            TypeError: the principal is neither text nor an integer, so it may not be the same text in another process.
        """
        principal = peer.principal
        if (text := principal_text(principal)) is not None:
            return text
        if principal is not None:
            raise TypeError(f"the principal of {peer!r} is no string or integer: give keep=Keep(..., scope=function)")
        if not self._warned:
            self._warned = True
            logger.warning(
                "%r has no principal, so its keys are lost with its session: set Handshake.principal, or use "
                "keep=Keep(..., scope=function)",
                peer,
            )
        return f"session {peer.id}"

    def payer_of(self, peer: Peer) -> str:
        """Return who pays for the runs of a peer: its principal, or its network address."""
        return self.owner_of(peer) if isinstance(peer.principal, str | int) else f"client {client_of(peer)}"


class OneOwner(Owners):
    """A client, to which the keys of all calls to it belong."""

    def __init__(self, client: str) -> None:
        self.client = client

    def owner_of(self, peer: Peer) -> str:
        return self.client

    def payer_of(self, peer: Peer) -> str:
        return f"owner {self.client}"


class KeptHandler(Struct, eq=False):
    """A handler with ``keep=``.

    Attributes:
        call: calls it without a key.
        adopter: None if its runs go on in no other process.
        by_key: whether the key and the peer alone decide which run is meant: who continues it, or sends a message to
            it, may leave the arguments out.
    """

    call: Call
    channel: ChannelRef
    adopter: Adopter | None
    counted: CountedRuns
    by_key: bool


class Keeper:
    """Lets calls of the handlers of a server or a client have keys.

    Args:
        store: keeps the runs. None for a `MemoryStore`.
        codec: results and items are kept as they arrive with this codec.
        owners: the owners of keys. A client is the only one.
        absent_peer: as for `Adopter`. None for a client, whose runs go on in no other process.
    """

    def __init__(
        self,
        store: Store | None,
        codec: Codec,
        owners: Owners,
        absent_peer: Callable[[object], Peer] | None = None,
    ) -> None:
        self.runs = Runs(StoreLink(store))
        self._encode = encode = encoder_of(codec)
        self._owners = owners
        self._adopter = None if absent_peer is None else Adopter(self.runs, encode, absent_peer)
        self._orders: WeakValueDictionary[Any, asyncio.Lock] = WeakValueDictionary()
        """By peers and runs."""

    def keep(self, handler: Handler, channel: ChannelRef, event: str) -> None:
        """Let calls of a handler have keys, by replacing its ``call``. See `Registry.keeper`.

        Raises:
            TypeError: other processes cannot run it.
        """
        call, keep = handler.call, handler.keep
        assert keep is not None
        if keep.moves:
            if self._adopter is None or handler.is_method or handler.lane is not None:
                text = "attempts= and on_end= of Keep are for functions of a server, without ordered="
                raise handler.facts.refusal(None, text)
            self._adopter.add(handler, call)

        adopter = self._adopter if keep.moves else None
        counted = self.runs.counted_of(event if channel is None else f"{channel}:{event}")
        kept = KeptHandler(call, channel, adopter, counted, is_by_key(handler))

        def keyed(invocation: Invocation, a: list[Any]) -> Any:
            context = context_of(invocation.inbound)
            if keep.last_argument and (context is None or context.key is UNSET):
                context, a = _in_last_argument(context, a)
            if context is None or context.key is UNSET:
                return call(invocation, a)
            if invocation.id is None:
                raise made_here(BadArguments(f"{invocation.event!r} came with a key, and an event cannot have one"))
            return self._join(invocation, kept, a, context)

        handler.call = keyed

    def _lane(self, key: Any, peer: Any) -> asyncio.Lock:
        """Return the lane of a handler for the calls of a peer. (The peer of a client has all its sessions.)"""
        lanes = self.runs.lanes.setdefault(peer, WeakKeyDictionary())
        return lanes.setdefault(key, asyncio.Lock())

    def _order(self, peer: Peer, kept: KeptHandler, event: str, key: str) -> asyncio.Lock:
        """Return the lock for calls of a peer that start a run or send it messages, in the order of their arrival."""
        return self._orders.setdefault((peer.id, kept.channel, event, key), asyncio.Lock())

    def _key(self, handler: Handler, kept: KeptHandler, peer: Any, event: str, arguments: list[Any], key: str) -> str:
        """Return the key of a run in the store.

        Raises:
            TypeError: the principal cannot own keys, or ``scope=`` returned no text.
        """
        assert handler.keep is not None
        owner: tuple[str, str, str]
        if (scope := handler.keep.scope) is None:
            owner = ("owner", self._owners.owner_of(peer), self._owners.client)
        else:
            shared: Any = scope(peer, key=key) if kept.by_key else scope(peer, *arguments)
            if not isinstance(shared, str):
                raise TypeError(f"scope= returns a text, and {scope!r} returned {shared!r}")
            owner = ("scope", shared, self._owners.client)
        return hash_of((owner, kept.channel, event, key))

    async def _join(self, invocation: Invocation, kept: KeptHandler, a: list[Any], context: CallContext) -> Any:
        """Join a call to the run with its key, or start the run. Return the result, or an iterator over the items.

        Raises:
            RemoteError: the call cannot have its key; or the run has failed.
        """
        handler, after = invocation.handler, context.after
        assert handler is not None and handler.keep is not None and context.key is not UNSET
        assert handler.arguments_of is not None
        if context.message is not UNSET:
            return await self._send(invocation, kept, a, context.key, context.message)
        adopter = kept.adopter
        keep, streams = handler.keep, handler.facts.kind is Kind.STREAM or after is not UNSET
        announces = context_of(invocation.inbound) is context
        invocation.movable = streams and announces and self.runs.link.is_shared
        if after is not UNSET and len(a) == 1 and kept.by_key:
            key = self._key(handler, kept, invocation.peer, a[0], [], context.key)
            return self._items(invocation, key, *await self._find(handler, key, None, after), announces=announces)
        keyed = KeyedRun(context.key)
        attempt = None if adopter is None else adopter.first_attempt(invocation, a, keyed)
        if attempt is None:
            own, within, body = _new_call(invocation, kept.call, a, context, keyed)
        else:
            own, within, body = attempt.own, attempt.context, attempt.start()
        lane = None if handler.lane is None else self._lane(handler.lane, invocation.peer)
        performer = HandlerPerformer(own, body, self._encode, lane)
        try:
            passed = handler.arguments_of(own, list(a))
            key = self._key(handler, kept, invocation.peer, a[0], passed, context.key)
            arguments = hash_of_arguments(passed, a)
        except BaseException:
            performer.drop()
            raise
        if after is UNSET:
            payer = self._owners.payer_of(invocation.peer)
            new = NewLog(
                id=secrets.token_hex(8),
                payer=payer,
                keep=keep.seconds,
                owned=True,
                arguments=arguments,
                memory=own.memory,
                payload=b"" if attempt is None else self._encode(attempt.call),
            )
            inbox = inbox_of(self.runs.link, self._encode, handler, new.id, payer)
            if inbox is not None:
                keyed.inbox = InboxReader(inbox, handler, new.id)
            run = Run(self.runs.link, key, new, performer, keyed, kept.counted, keep.unread, inbox)
            if attempt is not None and adopter is not None:
                adopter.prepare(run, attempt)
            start, skipped = partial(self.runs.start, run, within, invocation.peer), 0
            if inbox is None:
                state = await start()
            else:  # messages may follow the call at once
                order = self._order(invocation.peer, kept, a[0], context.key)
                try:
                    await order.acquire()
                except BaseException:
                    performer.drop()
                    raise
                try:
                    state = await start()
                finally:
                    order.release()
        else:
            performer.drop()
            state, skipped = await self._find(handler, key, arguments, after)
        if not streams:
            return (await self.runs.end_of(key, state)).result()
        return self._items(invocation, key, state, skipped, announces=announces)

    async def _send(self, invocation: Invocation, kept: KeptHandler, a: list[Any], key: str, id: str) -> str:
        """Send a message, which is the last argument, to the run with a key. Return when the handler has read it.

        Raises:
            RemoteError: the message cannot be sent, or is not read.
        """
        handler, peer, (*call, message) = invocation.handler, invocation.peer, a
        assert handler is not None and handler.keep is not None and handler.arguments_of is not None
        keep, convert = handler.keep, handler.to_message
        if convert is None or not call:
            raise made_here(
                BadArguments(f"{invocation.full_event!r} came with a message, which its handler does not get")
            )
        try:
            converted = convert(message)
        except msgspec.ValidationError as exc:
            raise made_here(BadArguments(f"the message does not fit {invocation.full_event!r}: {exc}")) from None
        async with self._order(peer, kept, call[0], key):
            if keep.may_send is not None and not await attempted(keep.may_send, peer, converted):
                raise made_here(RemoteError("this message is not allowed", "forbidden"))
            passed, arguments = list[Any](), None
            if not kept.by_key or len(call) > 1:
                passed = handler.arguments_of(invocation, list(call))
                arguments = hash_of_arguments(passed, call)
            own = self._key(handler, kept, peer, call[0], passed, key)
            state, _ = await self._find(handler, own, arguments, 0)
            inbox = inbox_of(self.runs.link, self._encode, handler, state.id, self._owners.payer_of(peer))
            assert inbox is not None
            # A principal without a text is distinguished by its session. All who have not logged in are one sender.
            sender = "" if peer.principal is None else principal_text(peer.principal) or f"session {peer.id}"
            digest = hash_of_arguments([converted], ["", message])[:16]
            sending = inbox.sending(Entry("message", 0, id, sender, plain_principal(peer.principal), message, digest))
            await sending.add(has_ended=state.end is not None)
        await sending.wait(partial(self.runs.is_over, own, state.id))
        return "read"

    async def _find(self, handler: Handler, key: str, arguments: str | None, after: int | str) -> tuple[LogState, int]:
        """Return the state of the run that a position is of, and how many of its items are before the position.

        Args:
            arguments: those that the run must have, or None for any.

        Raises:
            BadArguments, ItemsGone, KeyReused: the stream cannot continue there.
        """
        state = await self.runs.find(key)
        if state is None:
            raise made_here(ItemsGone("nothing is kept under this key"))
        if arguments not in (None, state.arguments):
            raise made_here(KeyReused("the key belongs to a call with other arguments"))
        number, run = RunPosition.parse(after)
        if run is not None and run != state.id:
            raise missing_items(state, "the position is of an earlier run; this one begins with {}")
        last = state.last if handler.facts.kind is Kind.STREAM else 1
        if number > last and (run is not None or state.end is not None):
            raise missing_items(state, ITEMS_LOST)
        return state, number

    def _items(
        self, invocation: Invocation, key: str, state: LogState, skipped: int, *, announces: bool
    ) -> AsyncIterator[Any]:
        """Return the items of a run. A value counts as the only item. The caller can stop the run on their channel.

        Raises:
            ItemsGone: the first ones are no longer kept.
        """
        if skipped + 1 < state.first:
            raise missing_items(state)
        user_channel_of(invocation).on("cancel", partial(self.runs.stop, key, state.id))
        return self._read(invocation, key, state, skipped, announces=announces)

    async def _read(
        self, invocation: Invocation, key: str, state: LogState, skipped: int, *, announces: bool
    ) -> AsyncIterator[Any]:
        """Yield the items of a run. Tell the reader first which run it is, if it ``announces``."""
        if announces:
            channel = invocation.make_channel()
            channel.owner.sender.send_event_nowait(channel.id, "run", (state.id, skipped))
        pages = self.runs.read(key, state, skipped)
        try:
            async for page in pages:
                state = page.state
                while page.items:
                    yield read_kept(page.pop(), list)[0]
        finally:
            await close_source(pages)
        assert state.end is not None
        result = read_kept(state.end, End).result()
        if not (skipped or invocation.handler is None or invocation.handler.facts.kind is Kind.STREAM):
            yield result


def hash_of_arguments(passed: list[Any], a: list[Any]) -> str:
    """Return the text by which calls know whether they mean the same."""
    try:
        return hash_of(passed)
    except BadArguments:  # the handler has a type that cannot be encoded
        return hash_of(a[1:])


def is_by_key(handler: Handler) -> bool:
    """Return whether the peer and the key decide which run is meant, without the arguments.

    Raises:
        TypeError: ``scope=`` of `Keep` cannot be called.
    """
    assert handler.keep is not None
    if (scope := handler.keep.scope) is None:
        return True
    parameters = handler.facts.parameters
    with suppress(ValueError):  # a function without a signature
        signature = signature_of(scope)
        if getattr(signature.parameters.get("key"), "kind", None) is Parameter.KEYWORD_ONLY:
            return True
        if all(parameter.source != "rest" for parameter in parameters):
            try:
                signature.bind(None, *(each for each in parameters if each.source == "wire"))
            except TypeError as exc:
                text = f"scope= is a function of the peer and the arguments, or of the peer and `*, key`: {exc}"
                raise handler.facts.refusal(None, text) from None
    return False


def _new_call(
    invocation: Invocation, call: Call, a: list[Any], context: CallContext, keyed: KeyedRun
) -> tuple[Invocation, Any, Any]:
    """Call the handler, of which nothing runs yet.

    Return the call as the handler will see it, the `contextvars` context in which it runs, and what it has returned.

    Raises:
        CallRefused: the arguments do not fit.
    """
    dispatcher, inbound = invocation.dispatcher, invocation.inbound
    message = WireMessage(i=inbound.i, a=list(a), c=inbound.c, ctx=CallContext(metadata=context.metadata))
    own = Invocation(invocation.peer, message, dispatcher, handler=invocation.handler, keyed=keyed)
    within = copy_context()  # with what middleware has set, such as the span of a trace
    within.run(CURRENT.set, own)
    body = within.run(call, own, message.a)
    message.i = UNSET  # what the handler returns is stored, and others answer requests with it
    return own, within, body


def _in_last_argument(context: CallContext | None, a: list[Any]) -> tuple[CallContext | None, list[Any]]:
    """Return the context of a call whose caller may have passed its key as the last argument, and the others.

    Raises:
        BadArguments: the key or the position is not valid.
    """
    last = a[-1]
    if not (isinstance(last, dict) and last.keys() == {"wsrpc"}):
        return context, a
    passed = read_call_context(last["wsrpc"])
    own = replace(context or CallContext(), key=passed.key, after=passed.after, message=passed.message)
    return own, a[:-1]
