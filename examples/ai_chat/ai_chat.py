"""An AI chat for a web page, on several workers. README.md has the commands, docs/how-to/ai-chat.md the reasons."""

from __future__ import annotations

import asyncio
import json
import logging
import os
import re
from collections.abc import AsyncGenerator, Awaitable, Coroutine
from contextlib import aclosing, suppress
from functools import partial
from http.cookies import SimpleCookie
from typing import Any

from conversations import Conversations
from language_model import Message, Part, messages_of, reply

from wsrpc import (
    ChannelClosed,
    Context,
    Handshake,
    ItemsGone,
    Keep,
    Overloaded,
    Peer,
    RemoteError,
    Room,
    RpcError,
    RunLost,
    Server,
    WsrpcError,
    local_client,
)
from wsrpc.cluster import Cluster
from wsrpc.types import RoomState
from wsrpc_adapters.redis import RedisEngine, RedisStore

REDIS = os.environ.get("REDIS", "redis://127.0.0.1:6379")
ATTEMPTS = 3  # as in the page
AFTER_ALL = 10**9  # skips more items than any run has

chats = Conversations(os.environ.get("CHAT_DATABASE", "conversations.sqlite"))
server = Server(store=RedisStore(REDIS, name="ai_chat"), cluster=Cluster(RedisEngine(REDIS), name="ai_chat"))

# ---------------------------------------------------------------- who may see a conversation, and its rooms


@server.on_handshake
def log_in(handshake: Handshake) -> None:
    conversation = handshake.state["conversation"] = handshake.query.get("conversation", "")
    if not re.fullmatch("[0-9a-f-]{36}", conversation):
        handshake.reject(400, "?conversation= is missing or not valid")
    cookies = SimpleCookie(handshake.headers.get("cookie", ""))
    if "user" not in cookies:
        handshake.reject(401, "the page sets a cookie")
    user = handshake.principal = cookies["user"].value
    if not is_staff(user):
        chats.begin(conversation, user)
        if chats.owner(conversation) != user:
            handshake.reject(403, "this is the conversation of another user")


def is_staff(user: object) -> bool:
    return str(user).startswith("staff-")


def chat_of(conversation: str) -> Room:
    """Return the room of all who see the conversation."""
    return server.room(f"chat {conversation}", keep=3600, state=state_for, presence=10)


def tabs_of(conversation: str) -> Room:
    """Return the room of the owner's tabs, which the model asks."""
    return server.room(f"tabs {conversation}")


def state_for(peer: Peer) -> RoomState:
    """Return what a page shows first. Without a position: a message may come twice."""
    conversation: str = peer.state["conversation"]
    messages, staff = chats.messages(conversation), chats.staff(conversation)
    return RoomState({"messages": messages, "staff": staff, "me": peer.principal, "may_take": is_staff(peer.principal)})


@server.on("open")
def enter(peer: Peer) -> None:
    if peer.principal == chats.owner(peer.state["conversation"]):
        tabs_of(peer.state["conversation"]).add(peer)


@server.on_join
def may_join(peer: Peer, room: str) -> bool:
    return room == chat_of(peer.state["conversation"]).name


# ---------------------------------------------------------------- messages: first the database, then the room

tasks: set[asyncio.Task[None]] = set()  # asyncio itself keeps only weak references


def in_full(work: Coroutine[Any, Any, None]) -> Awaitable[None]:
    """Do all of it, also if the page leaves at once. An ``async def`` handler might not even begin."""
    tasks.add(task := asyncio.create_task(work))
    task.add_done_callback(tasks.discard)
    return asyncio.shield(task)


async def tell(conversation: str, message: dict[str, Any]) -> None:
    await chat_of(conversation).emit("said", message)


@server.on("say")
def say(peer: Peer, id: str, text: str) -> Awaitable[None]:
    """Store a message. A page may repeat this."""
    conversation = peer.state["conversation"]
    author = "staff" if is_staff(peer.principal) else "user"
    state = "done" if author == "staff" or chats.staff(conversation) else "asked"
    return in_full(tell(conversation, chats.add(conversation, id, author, text, state)))


@server.on("again")
def again(peer: Peer, id: str, round: int) -> Awaitable[None]:
    """Let the model answer again, with another key. A page may repeat this."""
    conversation = peer.state["conversation"]
    if chats.staff(conversation):
        raise RpcError("a human answers", code="forbidden")
    return in_full(tell(conversation, chats.again(conversation, id, round)))


def may_see(peer: Peer, conversation: str, id: str, round: int) -> str:
    """All who see a conversation share its answers. The message's id and round are the key."""
    if conversation != peer.state["conversation"]:
        raise RpcError("this is another conversation", code="forbidden")
    return conversation


# An answer is kept for 10 minutes after its end. If no page has read it for a minute, the model is stopped.
@server.on("answer", keep=Keep(600, unread=60, scope=may_see))
async def answer(ctx: Context, conversation: str, id: str, round: int) -> AsyncGenerator[Part]:
    """Answer a message, and store the answer. Another attempt goes on from the one before."""
    earlier = await parts_before(ctx, conversation, id, round)
    text, state = "".join(part.get("text", "") for part in earlier), "stopped"
    yield {"begin": id, "text": text}  # a page learns of the attempt before the model has its next word
    messages = chats.messages(conversation)
    if not any((each["id"], each["round"], each["state"]) == (id, round, "asked") for each in messages):
        return  # its end is stored. The pages ask, if it was not emitted
    asked, use_tool = history(messages, id) + messages_of(earlier), partial(ask, conversation, f"{id} {round}")
    try:
        async with aclosing(reply(asked, TOOLS, use_tool)) as parts:
            async for part in parts:
                text += part.get("text", "")
                yield part
        state = "done"
    except Exception:
        state = "failed"
        raise
    finally:
        if not isinstance(ctx.cancel_reason, RunLost):  # else the process closes, and another attempt begins
            ended = chats.end(conversation, id, round, state, text)
            try:
                await tell(conversation, ended)
            except Overloaded as error:  # Redis is away: the pages ask when the run has ended
                logging.warning("the end of answer %s is stored, but was not emitted: %s", id, error)


async def parts_before(ctx: Context, conversation: str, id: str, round: int) -> list[Part]:
    """Return what the attempts before have yielded."""
    attempt = str(ctx.key).partition(":")[2]
    found: list[Part] = []
    for number in range(1, min(int(attempt or 1), ATTEMPTS)):
        parts, whole = await parts_of(conversation, id, round, number)
        # After one whose first parts are no longer kept, the model begins again.
        found = [*found, *(part for part in parts if "begin" not in part)] if whole else []
    return found


async def parts_of(conversation: str, id: str, round: int, attempt: int, stop: bool = False) -> tuple[list[Part], bool]:
    """Return what is kept of an attempt until its end, and whether it is whole: of a long one, the end is kept."""
    key = f"{id}.{round}:{attempt}" if attempt > 1 else f"{id}.{round}"
    async with local_client(server, state={"conversation": conversation}) as client:
        read = partial(client.stream, "answer", conversation, id, round, key=key)  # starts nothing, with after=
        if stop:
            with suppress(ChannelClosed, RemoteError):  # it has ended
                async with read(after=AFTER_ALL) as parts:
                    await parts.stop()
        found: list[Part] = []
        after = 0
        while True:
            try:
                async with read(after=after) as parts:
                    async for part in parts:
                        found.append(part)
            except ItemsGone as error:
                if error.first is not None:
                    found, after = [], error.first - 1
                    continue
            except RemoteError:  # at the end: RunLost, or that it was stopped
                pass
            return found, after == 0


def history(messages: list[dict[str, Any]], id: str) -> list[Message]:
    """Return what the model gets: the messages up to the one with this id."""
    found: list[Message] = []
    for each in messages:
        found.append({"role": "user" if each["author"] == "user" else "assistant", "content": each["text"]})
        if each["id"] == id:
            break
        if each["answer"]:
            found.append({"role": "assistant", "content": each["answer"]})
    return found


# ---------------------------------------------------------------- questions of the model

QUESTION = {"type": "object", "properties": {"question": {"type": "string"}}, "required": ["question"]}
ASK_USER = {"name": "ask_user", "description": "Ask the user to allow something: yes or no", "parameters": QUESTION}
TOOLS = [{"type": "function", "function": ASK_USER}]


async def ask(conversation: str, id: str, call: Message) -> str:
    """Ask all tabs, once, and return the first answer."""
    question = f"{id} {call['id']}"
    if (chosen := chats.chosen(conversation, question)) is not None:
        return chosen
    try:
        name, arguments = call["function"]["name"], json.loads(call["function"]["arguments"] or "{}")
        tools = tabs_of(conversation).of("tools")
        result = await tools.request(name, arguments, question, within=600, returns=str)
        return chats.choose(conversation, question, result)
    except (ValueError, WsrpcError) as error:
        return f"The tool has failed: {error}"  # for the model


@server.on("choose")
def choose(peer: Peer, question: str, answer: str) -> str:
    """Store the user's answer. Return the first one. A page may repeat this."""
    conversation = peer.state["conversation"]
    if peer.principal != chats.owner(conversation):
        raise RpcError("only the user is asked", code="forbidden")
    return chats.choose(conversation, question, answer)


# ---------------------------------------------------------------- stop, and take over


@server.on("stop")
def stop(peer: Peer, id: str, round: int) -> Awaitable[None]:
    return in_full(stop_answer(peer.state["conversation"], id, round))


@server.on("take_over")
def take_over(peer: Peer, on: bool) -> Awaitable[None]:
    """Let a human answer instead of the model, or the model again."""
    if not is_staff(peer.principal):
        raise RpcError("only staff takes over", code="forbidden")
    return in_full(hand_over(peer.state["conversation"], str(peer.principal) if on else None))


async def hand_over(conversation: str, staff: str | None) -> None:
    chats.set_staff(conversation, staff)
    await chat_of(conversation).emit("staff", staff)
    for message in chats.messages(conversation):
        if message["state"] == "asked":
            await stop_answer(conversation, message["id"], message["round"])


async def stop_answer(conversation: str, id: str, round: int) -> None:
    """Stop the model, wherever it runs, and store what it has written."""
    ended = chats.end(conversation, id, round, "stopped")  # no attempt begins any more
    await tell(conversation, ended)
    texts: list[str] = []
    for number in range(1, ATTEMPTS + 1):
        parts, whole = await parts_of(conversation, id, round, number, stop=True)
        # If the first parts are no longer kept, the handler stores all of it at its end.
        texts.append(("" if whole else "… ") + "".join(part.get("text", "") for part in parts))
    text = max(texts, key=len)  # a page may show that of the attempt before
    await tell(conversation, chats.end(conversation, id, round, "stopped", text))
