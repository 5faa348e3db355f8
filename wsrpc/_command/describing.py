"""The command ``describe``, which prints the description of a server, as signatures or as JSON."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterable, Iterator

import click

from .._schema.description import Description, EventSchema, ParameterSchema, is_answered
from ..codegen._checking import InvalidDescription
from ..codegen._typescript_types import Names, type_of
from ..errors import one_line
from .command_connection import connected
from .command_errors import REMOTE, Failure
from .command_options import CONNECTION, URL, Command, Options, channel_option
from .description_request import checked, describes, written
from .running import Job, ValueWriter, in_event_loop


@click.command(cls=Command, epilog="\b\nexample:\n  wsrpc describe ws://localhost:8080 --channel chat")
@URL
@channel_option("Describe only this named channel.")
@click.option("--json", is_flag=True, help="Print the whole description as JSON, with JSON Schemas.")
@CONNECTION
@in_event_loop
async def describe(options: Options, job: Job) -> None:
    """Print what a server offers: the signatures of its handlers, the events that it emits, and their types.

    The server has to call server.offer_description().
    """
    output = ValueWriter(job)
    async with connected(options, job) as client:
        found = await describes(client, options.url)
        if options.json:
            await output.value(found)
            return
        try:
            text = await asyncio.to_thread(written, lambda: "\n".join(signatures(checked(found), options.channel)))
        except InvalidDescription as exc:
            raise Failure(f"the description of the server cannot be used: {exc}", REMOTE) from exc
        if text:
            await output.line(text)
        elif options.channel is not None:
            raise Failure(f"the server's description has no channel {options.channel!r}", REMOTE)


def signatures(description: Description, channel: str | None = None) -> Iterator[str]:
    """Yield the lines of a readable description.

    Types are written as in TypeScript, because the values are sent as JSON.

    Args:
        channel: the only channel to describe. None for all channels.
    """
    names = Names({name: one_line(name) for name in description.definitions})
    for title, events in (("", description.events), ("emits on ", description.emits)):
        there: str | object | None = signatures
        for event in events:
            if channel is not None and event.channel != channel:
                continue
            if event.channel != there:
                there = event.channel
                yield f"{title}{'the main channel' if there is None else f'channel {one_line(there)}'}:"
            yield from _event(event, names, answered=not title or is_answered(event))
    if channel is None and names.definitions:
        yield "types:"
        for name, schema in description.definitions.items():
            yield from _block(f"{names.definitions[name]} = {type_of(schema, names)}")


def _event(event: EventSchema, names: Names, *, answered: bool) -> Iterator[str]:
    parts = [_parameter(each, names) for each in event.parameters]
    gets_messages = event.sends is not None and event.kind in ("value", "stream")
    if event.sends is not None and not gets_messages:
        parts.append(f"upload of {type_of(event.sends, names)}")
    text = f"{one_line(event.event)}({', '.join(parts)})"
    if event.kind in ("stream", "exchange"):
        text += f" -> stream of {type_of(event.items, names)}"
    elif event.kind == "conversation":
        text += " -> conversation"
    elif answered:
        text += f" -> {type_of(event.result, names)}"
    yield from _block(text)
    if gets_messages:
        yield f"      messages while it runs: {type_of(event.sends, names)}"
    if event.deprecated:
        yield f"      deprecated: {one_line(event.deprecated)}"
    for line in event.doc.splitlines():
        yield f"      {one_line(line)}".rstrip()


def _parameter(parameter: ParameterSchema, names: Names) -> str:
    text = f"{one_line(parameter.name)}: {type_of(parameter.schema, names)}"
    if parameter.rest:
        return f"...{text}[]"
    if "default" in parameter.schema:
        return f"{text} = {json.dumps(parameter.schema['default'], ensure_ascii=False)}"
    return text if not parameter.optional else text.replace(":", "?:", 1)


def _block(text: str) -> Iterable[str]:
    return (f"  {one_line(line)}" for line in text.splitlines())
