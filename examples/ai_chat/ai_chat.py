"""An AI chat for a web page, on several workers. README.md has the commands, docs/how-to/ai-chat.md the reasons."""

from __future__ import annotations

import asyncio
import os
import re
from collections.abc import AsyncGenerator, Awaitable, Coroutine
from contextlib import aclosing, closing, suppress
from http.cookies import SimpleCookie
from typing import Any

from conversations import Conversations
from language_model import Message, Part, Word, Words, messages_of, reply

from wsrpc import ChannelClosed, Context, Handshake, Keep, Peer, Room, RpcError, Server, local_client
from wsrpc.cluster import Cluster
from wsrpc.types import EndedRun, RoomState
from wsrpc_adapters.redis import RedisEngine, RedisStore

REDIS = os.environ.get("REDIS", "redis://127.0.0.1:6379")

chats = Conversations(os.environ.get("CHAT_DATABASE", "conversations.sqlite"))
store = RedisStore(REDIS, name="ai_chat", log_bytes=4 * 2**20)  # of an answer, about 20,000 parts
server = Server(store=store, cluster=Cluster(RedisEngine(REDIS), name="ai_chat"))

# ---------------------------------------------------------------- who may see a conversation, and its rooms


@server.on_handshake
def log_in(handshake: Handshake) -> None:
    cookies = SimpleCookie(handshake.headers.get("cookie", ""))
    if "user" not in cookies:
        handshake.reject(401, "the page sets a cookie")
    user = handshake.principal = cookies["user"].value
    if (conversation := handshake.query.get("conversation")) is None:
        return  # other clients have their conversations themselves
    if not re.fullmatch("[0-9a-f-]{36}", conversation):
        handshake.reject(400, "?conversation= is not valid")
    handshake.state["conversation"] = conversation
    if not is_staff(user):
        chats.begin(conversation, user)
        if chats.owner(conversation) != user:
            handshake.reject(403, "this is the conversation of another user")


def is_staff(user: object) -> bool:
    return str(user).startswith("staff-")


def chat_of(conversation: str) -> Room:
    """Return the room of all who see the conversation."""
    return server.room(f"chat {conversation}", keep=3600, state=state_for, presence=10)


def state_for(peer: Peer) -> RoomState:
    """Return what a page shows first. Without a position: a message may come twice."""
    conversation: str = peer.state["conversation"]
    messages, staff = chats.messages(conversation), chats.staff(conversation)
    return RoomState({"messages": messages, "staff": staff, "me": peer.principal, "may_take": is_staff(peer.principal)})


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


def may_see(peer: Peer, conversation: str, *_: object) -> str:
    """All who see a conversation share its answers. The message's id and round are the key."""
    if conversation != peer.state["conversation"]:
        raise RpcError("this is another conversation", code="forbidden")
    return conversation


def may_send(peer: Peer, word: Word) -> bool:
    """The model asks the user, and not the staff."""
    return peer.principal == chats.owner(peer.state["conversation"])


async def store_end(run: EndedRun) -> None:
    """Store an answer that has ended, and emit it. If Redis is away, this is called again."""
    conversation, id, round = run.args
    text = ("" if run.complete else "… ") + "".join(part.get("text", "") for part in run.items)
    await tell(conversation, chats.end(conversation, id, round, run.outcome, text))


# It is kept for 10 minutes after its end, and stopped if no page has read it for a day.
KEEP = Keep(600, unread=86400, scope=may_see, attempts=3, on_end=store_end, inbox=Word, may_send=may_send)


@server.on("answer", keep=KEEP)
async def answer(ctx: Context, conversation: str, id: str, round: int) -> AsyncGenerator[Part]:
    """Answer a message. Another attempt goes on with what those before it have written."""
    messages = chats.messages(conversation)
    if not any((each["id"], each["round"], each["state"]) == (id, round, "asked") for each in messages):
        return  # it was stopped before it has begun
    earlier = await items_before(ctx)
    asked = history(messages, id) + messages_of(earlier)
    with closing(Words(ctx.inbox(Word), earlier)) as words:
        async with aclosing(reply(asked, TOOLS, words)) as parts:
            async for part in parts:
                yield part


async def items_before(ctx: Context) -> list[Any]:
    """Return what the attempts before have yielded."""
    earlier = await ctx.earlier()
    if not earlier.complete:
        raise RpcError("the answer is too long to go on", code="too_long")
    return earlier.items


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


QUESTION = {"type": "object", "properties": {"question": {"type": "string"}}, "required": ["question"]}
ASK_USER = {"name": "ask_user", "description": "Ask the user to allow something: yes or no", "parameters": QUESTION}
TOOLS = [{"type": "function", "function": ASK_USER}]


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
    """Stop the model, wherever it runs. What it has written is stored by `store_end`."""
    await tell(conversation, chats.end(conversation, id, round, "stopped"))  # also if no page has begun the run
    async with local_client(server, state={"conversation": conversation}) as client:
        with suppress(ChannelClosed, RpcError):  # it has ended, or has not begun
            async with client.stream("answer", conversation, id, round, key=f"{id}.{round}", after=0) as parts:
                await parts.stop()
