"""``python -m scripts.conformance_rows`` makes the rows of ``wsrpc.conformance`` from the recordings of ws-wrapper.

A recording says which handlers a peer had. An implementation under test has the fixed ones of ``wsrpc.conformance``
instead, so each message that ran a handler becomes one that has a fixed handler do the same, and each call of the
recorded program one that asks for it. Steps that the fixed handlers cannot play, and those that wsrpc plays otherwise
on purpose (tests/vectors/deviations.json), are left out; so are scenarios whose recording calls them odd.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

ROOT = Path(__file__).parent.parent
VECTORS = ROOT / "tests" / "vectors"
TABLE = ROOT / "wsrpc" / "conformance" / "recorded.txt"
IGNORED = "ignored"
PARTS = {
    "events": "events",
    "channels": "channels",
    "requests/reject-values": "values",
    "requests": "requests",
    "cancel": "cancellation",
    "anon/unknown-h": "unknown",
    "anon": "anonymous",
    "iterator": "streams",
    "ignored": IGNORED,
    "pair/rpc-listeners": "anonymous",
    "pair/rpc": "requests",
    "pair/offline": "requests",
    "pair/reject-values/a": "values",
    "pair/reject": "requests",
    "pair/cancel": "cancellation",
    "pair/anon": "anonymous",
    "pair/stream": "streams",
}
NAMED = "room"
TOLERATED = {"items"}
"""Rules of deviations that the comparison allows anyway: items may be requests."""
OUTER = 1000
"""The ids of requests that ask for a call begin above it."""

HEADER = """\
# Made by `python -m scripts.conformance_rows` from recordings of ws-wrapper 4.3.1. added.txt explains the form.
"""


class NotPlayed(Exception):
    """The fixed handlers cannot play this step."""


class Untold(Exception):
    """The fixed handlers cannot play this scenario."""


def compact(value: Any) -> str:
    return json.dumps(value, separators=(",", ":"))


def is_plain(value: Any) -> bool:
    """Whether it is JSON, without the notation of the recordings for what is not."""
    if isinstance(value, dict):
        return all(not key.startswith("$") and is_plain(each) for key, each in value.items())
    return not isinstance(value, list) or all(map(is_plain, value))


def plain(value: Any) -> Any:
    if not is_plain(value):
        raise NotPlayed
    return value


def failing(value: Any) -> list[Any]:
    """The arguments of the handler that fails with this value."""
    if isinstance(value, dict) and "$error" in value:
        return ["fail", value["$error"]["message"]]
    if isinstance(value, str):
        raise NotPlayed  # for the handler, a text is the message of an error
    return ["fail", plain(value)]


class Translation:
    """One scenario. ``lines`` are those of its row."""

    def __init__(self, entry: dict[str, Any], part: str, deviations: dict[str, Any]) -> None:
        self.part = part
        self.lines: list[str] = []
        self._deviations = {} if set(deviations.get("rules", ())) <= TOLERATED else deviations
        self._handlers: dict[str, tuple[Any, dict[str, Any]]] = {}
        self._ours: dict[int, str] = {}  # recorded ids of the requests of the peer under test, and their names
        self._channels: dict[str, Any] = {}
        self._outer: dict[str, int] = {}  # the request that asks for a call, by the call's name
        self._signals: dict[str, list[str]] = {}
        self._over: set[str] = set()
        self._opens = {
            step["outcome"]["ref"]
            for step in entry["steps"]
            if step.get("outcome", {}).get("type") == "resolved"
            and isinstance(step["outcome"]["value"], dict)
            and "$channel" in step["outcome"]["value"]
        }
        self._names: set[str] = set()
        self._h: dict[Any, Any] = {}  # recorded ids of channels, and those in the row
        self._ended: set[Any] = set()  # channels that the kit has aborted, and about which the row says nothing later
        self._skipped: set[Any] = set()  # ids of requests that are not in the row
        self.played = self.skipped = 0
        self.values: list[str] = []  # of another row: where a handler fails with what is no error
        for number, (kind, value, reactions) in enumerate(self._stimuli(entry["steps"])):
            self._play(number, kind, value, reactions)
        for h in sorted(self._ended, key=str):
            i = OUTER + len(self._outer) + len(self._ended)
            self._ended.discard(h)
            self._send({"i": i, "h": h, "a": ["echo", "closed"]})
            self._expect({"i": i, "e": {"message": "*"}, "_": 1})
            self._expect({"h": h, "x": "*"}, "<?")

    @staticmethod
    def _stimuli(steps: list[dict[str, Any]]) -> Iterator[tuple[str, Any, list[dict[str, Any]]]]:
        groups: list[tuple[str, Any, list[dict[str, Any]]]] = []
        for step in steps:
            if "sent" in step or "outcome" in step:
                groups[-1][2].append(step)
            elif kind := {"do", "feed"} & step.keys():
                groups.append((min(kind), step[min(kind)], []))
            else:
                raise Untold
        yield from groups

    def _play(self, number: int, kind: str, value: Any, reactions: list[dict[str, Any]]) -> None:
        skipped = str(number) in self._deviations
        before = len(self.lines)
        try:
            if kind == "feed" and not skipped:
                self._feed(value, reactions)
            elif kind == "do":
                if skipped:
                    raise Untold
                getattr(self, f"_do_{value['op']}", self._do_else)(value, reactions)
            self.played += len(self.lines) > before
        except (NotPlayed, KeyError):  # or what it is about was not played
            skipped = True
            del self.lines[before:]
        if skipped and kind == "do":
            self._outer.pop(value.get("ref"), None)
        elif skipped:
            self._skipped |= {self._parsed(value).get("i")} - {None}
        self.skipped += skipped

    # ---------------------------------------------------------------- what the kit sends and expects

    def _send(self, message: dict[str, Any]) -> None:
        self.lines.append(f"> {compact(message)}")

    def _expect(self, message: dict[str, Any], sign: str = "<") -> None:
        self.lines.append(f"{sign} {compact(message)}")

    def _reactions(
        self,
        reactions: list[dict[str, Any]],
        text: bool = False,
        own: str = "",
        received: Mapping[str, Any] = MappingProxyType({}),
    ) -> None:
        """Expect what was recorded. ``text``: the texts of errors are the handler's; ``own``: the request's name."""
        for step in reactions:
            if "sent" in step:
                message = json.loads(step["sent"])
                if "h" in message and "does not exist" in str(message.get("x")) and self.part != "unknown":
                    self._expect({"h": received["h"], "x": "*"}, "<?")  # an extra of ws-wrapper
                else:
                    self._sent(message, text, own)
                continue
            outcome = step["outcome"]
            match outcome["type"]:
                case "resolved":
                    ref, value = outcome["ref"], outcome["value"]
                    outer = self._outer[ref]
                    if ref in self._opens:
                        self._channels[ref] = f"${ref}"
                        self._h[next(i for i, name in self._ours.items() if name == f"${ref}")] = f"${ref}"
                        self._expect({"i": outer})
                    else:
                        self._expect({"i": outer, "d": [None if value == {"$undefined": True} else plain(value)]})
                case "rejected":
                    self._rejected(outcome["ref"], outcome["error"])
                case "channel_closed" if received.keys() >= {"h", "x"}:
                    self._ended.add(received["h"])
                case "threw" | "local_event" | "iterated" | "no_channel_factory":
                    raise NotPlayed
                case _:
                    pass

    def _rejected(self, ref: str, error: Any) -> None:
        outer = self._outer[ref]
        if not (isinstance(error, dict) and "$error" in error):
            if self.part != "values":
                raise NotPlayed
            self._expect({"i": outer, "e": plain(error)})
        elif "Request" in error["$error"]["class"]:
            self._over.add(ref)
            self._expect({"i": outer, "e": "*"}, "<?")
        else:
            self._expect({"i": outer, "e": {"message": error["$error"]["message"]}, "_": 1})

    def _sent(self, message: dict[str, Any], text: bool, own: str) -> None:
        if "a" in message and "i" in message:
            if not own:
                raise NotPlayed
            self._ours[message["i"]] = f"${own}"
        if ("a" in message or "x" in message) and message.get("i") in self._ours:
            message["i"] = self._ours[message["i"]]
        self._rename(message)
        if "c" in message:
            message["c"] = NAMED
        for key in ("e", "x"):
            if message.get("_") and not text:
                message.update({key: {"message": "*"}} if key in message else {})
        if "x" in message and "i" in message:
            message["x"] = "*"
            message.pop("_", None)
        self._expect(message)

    # ---------------------------------------------------------------- messages that the recorded peer got

    @staticmethod
    def _parsed(text: str) -> dict[str, Any]:
        """The message, or nothing if it is not an object."""
        try:
            message = json.loads(text)
        except ValueError:
            return {}
        return message if isinstance(message, dict) else {}

    def _rename(self, message: dict[str, Any]) -> None:
        """Give the channel of a message its id in the row."""
        if "h" in message and ("a" in message or "i" not in message):
            h = message["h"]
            if h in self._skipped or (isinstance(h, str) and h.isdecimal() and int(h) in self._ours):
                raise NotPlayed
            message["h"] = self._h.get(h, h)

    def _feed(self, text: str, reactions: list[dict[str, Any]]) -> None:
        message = self._parsed(text)
        if not reactions and (not message or "ws-wrapper" in message):
            self.lines.append(f"> {text if message else compact(text)}")
            return
        called = [step["outcome"] for step in reactions if step.get("outcome", {}).get("type") == "handler_called"]
        if len(called) > 1:
            raise NotPlayed
        if called:
            self._handled(message, called[0], reactions)
            return
        if message.get("a") and isinstance(message.get("i"), int) is not ("i" in message):
            raise NotPlayed
        if not message.get("a") and message.get("i") in self._ours:
            message["i"] = self._ours[message["i"]]
        if message.get("i") in self._skipped and not message.get("a"):
            raise NotPlayed
        self._rename(message)
        if message.get("a") and message.get("c") in self._names:
            message["c"] = NAMED
        self._ended.discard(message.get("h"))
        self._send(message)
        for step in reactions:
            if step.get("outcome", {}).get("type") == "handler_signal_aborted":
                ref = self._handlers[step["outcome"]["handler"]][1].get("ref")
                if ref is None:
                    raise NotPlayed
                self._over.add(ref)
                self._expect({"i": f"${ref}", "x": "*"})
                self._expect({"i": message.get("i"), "e": "*"}, "<?")
        self._reactions(reactions, received=message)

    def _handled(self, message: dict[str, Any], called: dict[str, Any], reactions: list[dict[str, Any]]) -> None:
        """Have a fixed handler do what the recorded one has done."""
        channel, handler = self._handlers[called["handler"]]
        _, *args = message["a"]
        event = "seen"
        if isinstance(message.get("c"), str):
            if self._of(channel) != {"c": NAMED}:
                raise NotPlayed
            message["c"] = NAMED
        self._rename(message)
        if handler.get("do"):
            raise NotPlayed
        where = {key: message[key] for key in ("c", "h") if message.get(key) is not None}
        if isinstance(where.get("h"), str) and where["h"].isdecimal():
            where["h"] = int(where["h"])
        if "i" not in message:
            message["a"] = ["emit", event, plain(called["args"])]
            self._send(message)
            self._expect({"a": [event, *plain(called["args"])], **where})
            if any("sent" in step for step in reactions):
                raise NotPlayed
            return
        ref = str(handler.get("ref"))
        match handler["kind"]:
            case "return" | "async_return":
                message["a"] = ["echo", plain(handler["value"])]
            case "return_args":
                message["a"] = ["echo", args]
            case "return_arg":
                message["a"] = ["echo", args[handler["index"]]]
            case "throw" | "async_throw":
                message["a"] = failing(handler["value"])
                if not isinstance(message["a"][1], str):
                    sent = [json.loads(step["sent"]) for step in reactions if "sent" in step]
                    self.values += [f"> {compact(message)}", *(f"< {compact(each)}" for each in sent)]
                    return
            case "none":
                message["a"] = ["emit", event, args]
            case "deferred":
                message["a"] = ["call", ref, args]
            case "channel" | "async_channel":
                message["a"] = ["channel"]
                self._channels[handler["channel_ref"]] = self._h[message["i"]] = message["i"]
            case "iterable" if "items" in handler["iterable"] and "gate" not in handler["iterable"]:
                throws = handler["iterable"].get("then_throw")
                error = [] if throws is None else failing(throws)[1:]
                if error and not isinstance(error[0], str):
                    raise NotPlayed
                self._h[message["i"]] = message["i"]
                message["a"] = ["items", plain(handler["iterable"]["items"]), *error]
            case _:
                raise NotPlayed
        self._send(message)
        if handler["kind"] == "none":
            self._expect({"a": [event, *args], **where})
        if handler["kind"] == "deferred":
            self._expect({"i": f"${ref}", "a": [ref, *args], **where})
            self._outer[ref] = message["i"]
        self._reactions(reactions, text=True)

    # ---------------------------------------------------------------- what the recorded program did

    def _of(self, channel: Any) -> dict[str, Any]:
        """The key of a message on this channel."""
        if channel is None:
            return {}
        if isinstance(channel, str):
            self._names.add(channel)
            if len(self._names) > 1 and min(self._names) != channel:
                raise NotPlayed
            return {"c": NAMED}
        if channel["ref"] not in self._channels:
            raise NotPlayed
        return {"h": self._channels[channel["ref"]]}

    def _do_else(self, value: dict[str, Any], reactions: list[dict[str, Any]]) -> None:
        raise Untold

    def _do_create(self, value: dict[str, Any], reactions: list[dict[str, Any]]) -> None:
        if value != {"op": "create", "socket": "open"}:
            raise Untold

    def _do_inspect(self, value: dict[str, Any], reactions: list[dict[str, Any]]) -> None: ...

    def _do_on(self, value: dict[str, Any], reactions: list[dict[str, Any]]) -> None:
        handler = value["handler"]
        self._handlers[handler["id"]] = (value["channel"], handler)
        for inner in handler.get("channel_on", ()):
            self._handlers[inner["handler"]["id"]] = ({"ref": handler["channel_ref"]}, inner["handler"])
        if "channel_use" in handler:
            raise Untold

    def _do_emit(self, value: dict[str, Any], reactions: list[dict[str, Any]]) -> None:
        if not reactions:
            raise NotPlayed
        self._send({"a": ["emit", value["event"], plain(value["args"])], **self._of(value["channel"])})
        self._reactions(reactions)

    def _do_request(self, value: dict[str, Any], reactions: list[dict[str, Any]]) -> None:
        ref = value["ref"]
        if "timeout_ms" in value:
            raise Untold
        if not any("sent" in step for step in reactions):  # its signal was aborted before
            raise NotPlayed
        outer = self._outer[ref] = OUTER + len(self._outer)
        if "signal" in value:
            self._signals.setdefault(value["signal"], []).append(ref)
        asked = "request_channel" if ref in self._opens else "call"
        self._send({"i": outer, "a": [asked, value["event"], plain(value["args"])], **self._of(value["channel"])})
        self._reactions(reactions, own=ref)

    def _do_settle(self, value: dict[str, Any], reactions: list[dict[str, Any]]) -> None:
        ref = value["ref"]
        if ref in self._over:
            raise NotPlayed
        if "resolve" in value:
            self._send({"i": f"${ref}", "d": plain(value["resolve"])})
            self._expect({"i": self._outer[ref], "d": [plain(value["resolve"])]})
            return
        _, error = failing(value["reject"])
        self._send({"i": f"${ref}", "e": {"message": error}, "_": 1})
        self._expect({"i": self._outer[ref], "e": {"message": error}, "_": 1})

    def _do_new_signal(self, value: dict[str, Any], reactions: list[dict[str, Any]]) -> None: ...

    def _do_abort_signal(self, value: dict[str, Any], reactions: list[dict[str, Any]]) -> None:
        refs = [ref for ref in self._signals.get(value["ref"], ()) if ref not in self._over]
        if not refs or self._opens.intersection(refs) or not any("sent" in step for step in reactions):
            raise NotPlayed
        reason = value.get("reason")
        message = reason["$error"]["message"] if isinstance(reason, dict) and "$error" in reason else None
        for ref in refs:
            flagged = {"x": {"message": message}, "_": 1} if message is not None else {"x": plain(reason)}
            self._send({"i": self._outer[ref], **flagged})
        self._reactions(reactions)

    def _do_abort_channel(self, value: dict[str, Any], reactions: list[dict[str, Any]]) -> None:
        reason = value.get("reason")
        if not (isinstance(reason, dict) and "$error" in reason) or isinstance(value["channel"], str):
            raise NotPlayed
        self._send({"a": ["abort", reason["$error"]["message"]], **self._of(value["channel"])})
        self._reactions(reactions, text=True)


def rows() -> Iterator[tuple[str, str, list[str]]]:
    """Part, name and lines of each row."""
    deviations = json.loads((VECTORS / "deviations.json").read_text("utf-8"))
    for path in [*sorted((VECTORS / "data").glob("*4.3.1*.json")), *sorted((VECTORS / "data" / "further").glob("*"))]:
        for entry in json.loads(path.read_text("utf-8")):
            name = entry["name"]
            part = next((part for prefix, part in PARTS.items() if name.startswith(prefix)), None)
            if part is None or set(entry.get("tags", ())) - {"pair"}:
                continue
            try:
                found = Translation(entry, part, deviations.get(name, {}))
            except Untold:
                continue
            wanted = '"h":' if part in ("anonymous", "unknown", "streams") else "> " if part == IGNORED else "< "
            if found.played > found.skipped and any(wanted in line for line in found.lines):
                yield found.part, name, found.lines
            if found.values:
                yield "values", f"{name}/values", found.values


def steps(lines: list[str]) -> set[str]:
    """What a row does step by step, whatever its ids, names and numbers are."""
    text = "\n".join(lines)
    text = re.sub(r'(?<="emit",)"\w+"|(?<="call",)"\w+"|(?<="request_channel",)"\w+"', '""', text)
    text = re.sub(r'(?<="message":)"[^"]*"', '""', text)
    text = re.sub(r'(?<=< \{"a":\[)"\w+"(?<!"next")|(?<="x":)"[^"]+"', '""', text)
    text = re.sub(r'"\$[\w-]+"|-?\d[\d.e+]*', "0", text)
    text = re.sub(r"0(,0)+", "0", text)
    return set(re.split(r"\n(?=>)", text))


def distinct() -> Iterator[str]:
    """The rows as text, without those of which each step is also one of another row of the same part."""
    left = [(part, name, lines, steps(lines)) for part, name, lines in rows()]
    for row in sorted(left, key=lambda row: len(row[3])):
        others = (other for other in left if other is not row)
        if row[0] != IGNORED and any(row[3] <= other[3] and row[0] == other[0] for other in others):
            left = [each for each in left if each is not row]
    for part, name, lines, _ in left:
        yield "\n".join([f"= {part}: {name}", *lines, ""])


def table() -> str:
    return HEADER + "\n" + "\n".join(distinct())


if __name__ == "__main__":
    TABLE.write_text(table(), "utf-8")
