"""What the users of NATS and Redis configure: who they are, TLS, several servers. Passwords are shown nowhere."""

from __future__ import annotations

import logging
import ssl
from collections.abc import Callable, Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from engine_servers import ServerProcess, free_port, nats_server, redis_server
from engines_in_use import CONNECT, Recorder, check_over, connect_to

from wsrpc.cluster import ClusterClient
from wsrpc.cluster.engine import Engine
from wsrpc.errors import EngineLost, EngineRefused
from wsrpc_adapters.nats import NatsEngine
from wsrpc_adapters.redis import RedisEngine

SECRET = "s3cret-of-tests"
CERTIFICATE = Path(__file__).with_name("localhost.pem")


@contextmanager
def running(server: ServerProcess) -> Generator[ServerProcess]:
    try:
        yield server
    finally:
        server.kill()


async def check_works(engine: Engine, subject: str = "ours.a") -> None:
    heard = Recorder()
    connection: Any = await connect_to(engine, heard)
    await connection.subscribe(subject)
    connection.publish(subject, b"hello")
    assert await connection.is_received(f"{subject}b", b"hello") is False
    await heard.number(1)
    await connection.close()


async def refusal(engine: Engine) -> str:
    with pytest.raises(EngineLost) as caught:
        await engine.connect(Recorder())
    return f"{caught.value!r} {caught.value} {caught.value.__cause__!r}"


AS_ANN = ("--user", "ann", "on", f">{SECRET}", "+@all", "allchannels", "--user", "default", "off")
ANN: dict[str, tuple[Callable[..., ServerProcess], tuple[str, ...], Callable[..., Engine], str]] = {
    "nats": (nats_server, ("--user", "ann", "--pass", SECRET), NatsEngine, "user"),
    "redis": (redis_server, AS_ANN, RedisEngine, "username"),
}


@pytest.mark.parametrize("kind", ANN)
async def test_user_and_password(kind: str, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    start, arguments, made, option = ANN[kind]
    with running(start(*arguments)) as server:
        await check_works(CONNECT[kind](server.url.replace("//", f"//ann:{SECRET}@")))
        engine = made(server.url, **{option: "ann", "password": SECRET})
        await check_works(engine)
        wrong = made(server.url, **{option: "ann", "password": SECRET[::-1]})
        with pytest.raises(EngineRefused, match="refuses the user or the password: "):
            async with ClusterClient(wrong, connect_timeout=None):  # does not wait until the password is right
                raise AssertionError
        told = await refusal(wrong)
        assert "authoriz" in told.lower() or "password" in told.lower()
        told += await refusal(made(server.url)) + repr(engine) + repr(wrong) + caplog.text
        assert SECRET not in told and SECRET[::-1] not in told


@pytest.mark.parametrize(
    ("made", "urls", "shown"),
    [
        (NatsEngine, [f"nats://{SECRET}@one", "two:4333"], "NatsEngine(one, two:4333)"),
        (RedisEngine, f"redis://ann:{SECRET}@one:6379/0?client_name=x", "RedisEngine(one:6379)"),
        (RedisEngine, f"unix://ann:{SECRET}@/run/redis.sock", "RedisEngine(/run/redis.sock)"),
    ],
)
def test_the_repr_shows_where_and_no_secret(made: Callable[[Any], Engine], urls: Any, shown: str) -> None:
    assert repr(made(urls)) == shown


@pytest.mark.parametrize("url", [f"nats://ann:{SECRET}/x@one", f"redis://ann:{SECRET}/x@one", f"http://[{SECRET}"])
@pytest.mark.parametrize("made", [NatsEngine, RedisEngine])
def test_what_is_no_url_is_refused_and_not_shown(made: Callable[[str], Engine], url: str) -> None:
    with pytest.raises(ValueError, match="not a valid URL") as caught:
        made(url)
    assert SECRET not in str(caught.value)
    assert caught.value.__cause__ is None and caught.value.__context__ is None


def test_options_that_would_break_the_contract_are_refused() -> None:
    with pytest.raises(TypeError, match=r"NatsEngine sets allow_reconnect, no_echo itself"):
        NatsEngine("nats://one", no_echo=True, allow_reconnect=True)
    with pytest.raises(TypeError, match=r"RedisEngine sets retry itself"):
        RedisEngine("redis://one", retry=None)
    with pytest.raises(TypeError, match=r"RedisEngine sets socket_timeout itself"):
        RedisEngine("redis://one?socket_timeout=3")
    with pytest.raises(ValueError, match="not by WebSocket"):
        NatsEngine("ws://one")


async def test_one_of_several_servers_of_nats_is_up_and_says_how_large_a_message_may_be(tmp_path: Path) -> None:
    config = tmp_path / "nats.conf"
    config.write_text("max_payload: 2000")
    with running(nats_server("-c", str(config))) as server:
        for _ in range(5):
            connection = await NatsEngine([f"nats://127.0.0.1:{free_port()}", server.url]).connect(Recorder())
            assert connection.largest == 2000
            await connection.close()


async def test_nats_over_tls() -> None:
    trusted = ssl.create_default_context(cafile=CERTIFICATE)
    with running(nats_server("--tls", "--tlscert", str(CERTIFICATE), "--tlskey", str(CERTIFICATE))) as server:
        await check_works(NatsEngine(server.url, tls=trusted, tls_hostname="localhost"))
        assert "CERTIFICATE_VERIFY_FAILED" in await refusal(NatsEngine(server.url))


def nats_with_permissions(folder: Path) -> ServerProcess:
    rights = 'publish: "ours.*", subscribe: ["ours.*", "_INBOX.>"]'
    user = f'user: ann, password: "{SECRET}", permissions: {{ {rights} }}'
    (folder / "nats.conf").write_text(f"authorization {{ users = [{{ {user} }}] }}")
    return nats_server("-c", str(folder / "nats.conf"))


def redis_with_permissions(_: Path) -> ServerProcess:
    return redis_server("--user", "ann", "on", f">{SECRET}", "+@all", "resetchannels", "&ours.*")


@pytest.mark.parametrize(("kind", "start"), [("nats", nats_with_permissions), ("redis", redis_with_permissions)])
async def test_a_permission_that_is_missing_ends_the_connection(
    kind: str, start: Callable[[Path], ServerProcess], tmp_path: Path
) -> None:
    with running(start(tmp_path)) as server:
        engine = CONNECT[kind](server.url.replace("//", f"//ann:{SECRET}@"))
        await check_works(engine)

        for call in ("subscribe", "publish"):
            heard = Recorder()
            connection = await connect_to(engine, heard)
            if call == "subscribe":
                with pytest.raises(EngineLost, match=r"(?i)permission"):
                    await connection.subscribe("theirs.a")
            else:
                connection.publish("theirs.a", b"")
            assert "permission" in (await heard.ended()).lower()
            await check_over(connection, heard)
