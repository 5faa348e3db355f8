"""Connection of a command: makes a `Client` from options, and keeps it open while the command uses it."""

from __future__ import annotations

import logging
import ssl
import sys
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager

from tenacity import stop_after_attempt

from .._client.client import Client
from .._client.reconnect_policy import Reconnect
from .._core.api.channel import Channel
from .._net.dialing.urls import check_url, shown_url
from ..errors import printable
from ..headers import check_header
from .command_errors import UsageError
from .command_options import Options
from .running import Job

CONNECTING = 30.0
"""Seconds for connecting, unless ``--timeout`` changes it."""
FIRST_DELAY = 0.5
"""Maximum delay before the second attempt, in seconds. The maximum doubles with each further attempt."""


@asynccontextmanager
async def connected(options: Options, job: Job, client: Client | None = None) -> AsyncGenerator[Client]:
    """Connect ``client``, or one that the options describe, and close the connection at the end."""
    if client is None:
        attempts = 1 + options.retry
        reconnect = Reconnect(initial=FIRST_DELAY, stop=stop_after_attempt(attempts)) if attempts > 1 else None
        client = client_of(options, reconnect)
    job.doing = f"there was no connection yet to {shown_url(options.url)}"
    async with client:
        job.doing = "the connection was closed"
        yield client


def on_channel(client: Client, name: str | None) -> Client | Channel:
    """Return the named channel of ``client``, or ``client`` itself for the main channel."""
    return client if name is None else client.of(name)


def client_of(options: Options, reconnect: Reconnect | None) -> Client:
    """Return the client that the options describe.

    Raises:
        UsageError, ValueError: an option is not valid.
    """
    context = _tls(options)
    check_url(options.url, tls=False)
    if context is not None and options.url.startswith("ws://"):
        raise UsageError("--cacert, --cert, --key and --insecure are for wss:// URLs; this one begins with ws://")
    for name, value in (*options.header, ("Authorization", f"Bearer {options.token}")):
        check_header(name, value)
    set_up_log(verbose=options.verbose)
    return Client(
        options.url,
        headers=dict(options.header),
        auth=options.token,
        subprotocols=options.subprotocol or None,
        ssl=context,
        compression=options.compress,
        reconnect=reconnect,
        connect_timeout=options.timeout or CONNECTING,
        log_payloads=options.verbose,
        profile=options.profile,
    )


def _tls(options: Options) -> ssl.SSLContext | None:
    if options.key and not options.cert:
        raise UsageError("--key is the key of a certificate: give --cert FILE, too")
    if not (options.cacert or options.cert or options.insecure):
        return None
    try:
        context = ssl.create_default_context(cafile=options.cacert)
    except (OSError, ValueError) as exc:
        raise UsageError(f"cannot read the authorities in {options.cacert}: {_reason(exc)}") from exc
    if options.cert:
        try:
            context.load_cert_chain(options.cert, options.key)
        except (OSError, ValueError) as exc:
            files = options.cert if options.key is None else f"{options.cert} with the key in {options.key}"
            raise UsageError(f"cannot use the certificate in {files}: {_reason(exc)}") from exc
    if options.insecure:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    return context


def _reason(error: OSError | ValueError) -> str:
    if not isinstance(error, ssl.SSLError):
        return str(getattr(error, "strerror", None) or error)
    if not error.reason:  # OpenSSL says only "PEM lib"
        return "it does not hold a certificate and its private key; --key names another file for the key"
    return error.reason.replace("_", " ").lower()


class _Formatter(logging.Formatter):
    """Formatter that escapes unsafe characters, because a traceback may contain text from the server."""

    def format(self, record: logging.LogRecord) -> str:
        return printable(super().format(record))


def set_up_log(*, verbose: bool) -> None:
    """Show the library's log on stderr, or none of it: the command reports errors itself."""
    logger = logging.getLogger("wsrpc")
    if not verbose:
        logger.addHandler(logging.NullHandler())
        return
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(_Formatter("%(asctime)s %(levelname)s %(message)s"))
    logger.addHandler(handler)
    logger.setLevel(logging.DEBUG)
