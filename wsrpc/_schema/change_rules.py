"""The rules of `contract_diff`: what each change of a contract does to programs that still have the other version.

`change_at` makes the `Change` of a rule at a place.
"""

from __future__ import annotations

from typing import Any, Literal, NamedTuple

import msgspec

Outcome = Literal["works", "fails", "meaning"]
"""What happens when the program of one version reads what a program of the other version has sent.

- ``"works"``: it reads what was meant.
- ``"fails"``: it raises an error, or the message is refused.
- ``"meaning"``: nothing fails, but a value is lost, has another name, or is replaced by a default.
"""
Kind = Literal["compatible", "breaks callers", "breaks handlers", "changes meaning"]


class Rule(NamedTuple):
    """One row of the table."""

    new_reads_old: Outcome
    """What a new program does with what an old one has sent."""
    old_reads_new: Outcome
    """What an old program does with what a new one has sent. For arguments, programs that read are handlers."""
    happens: str
    do: str


def kinds_of(old_caller: Outcome, new_caller: Outcome) -> tuple[Kind, ...]:
    """Return whom a change breaks: what happens to old callers of new handlers, and to new callers of old handlers."""
    found: dict[Kind, bool] = {
        "breaks callers": old_caller == "fails",
        "breaks handlers": new_caller == "fails",
        "changes meaning": "meaning" in (old_caller, new_caller),
    }
    return tuple(kind for kind, applies in found.items() if applies) or ("compatible",)


# For each rule: its name, what new programs do with old messages, and old programs with new ones; what happens, and
# what to do.
_TABLE = """
event-added | works | fails | Old handlers do not know the event. | Deploy the handlers first.
event-removed | fails | works | Old callers still send the event. | Remove it when no caller is left.
event-deprecated | works | works |\
    Old callers are warned, readers of emitted events are not. | Remove it when nobody needs it.
kind-changed | fails | fails | The caller expects another kind of response. | Add another event.
keep-added | works | fails | Old handlers refuse calls with a key. | Deploy the handlers first.
keep-removed | fails | works | New handlers refuse calls with a key. | Keep `keep=` until no caller passes a key.
keep-extended | works | meaning | Old handlers forget a key sooner, and then run again. | Deploy the handlers first.
keep-shortened | meaning | works |\
    New handlers forget a key sooner, and then run again. | Keep the time until no caller repeats a call so late.
emitted-event-added | works | meaning | Old handlers drop the event, and only log that. | Deploy the handlers first.
emitted-event-removed | meaning | works |\
    New handlers drop the old event, and only log that. Old ones get none. | Emit it until no peer needs it.
emitted-request-removed | fails | works | New handlers refuse it. Old ones get none. | Keep it until no peer needs it.
emit-to-request | works | fails | Old handlers answer with null. | Deploy the handlers first.
request-to-emit | fails | works | New handlers answer old requests with null. | Add another event.

parameter-added | fails | fails |\
    Old callers pass too few arguments, new ones too many. | Give it a default, and deploy the handlers first.
parameter-added-optional | works | fails | Old handlers refuse it. | Deploy the handlers first.
parameter-removed | fails | fails | Old callers pass too many arguments, new ones too few. | Keep it; ignore its value.
parameter-removed-optional | fails | works | New handlers refuse it. | Keep it until no caller passes it.
emitted-parameter-added | fails | meaning |\
    New handlers refuse old events; old ones drop the argument silently. | Give the parameter a default.
emitted-parameter-added-optional | works | meaning | Old handlers drop it silently. | Deploy the handlers first.
emitted-parameter-removed | meaning | fails |\
    New handlers drop the argument silently; old ones refuse new events. | Keep it; ignore its value.
emitted-parameter-removed-optional | meaning | works | New handlers drop it silently. | Keep it until nobody passes it.
parameter-required | fails | works | Old callers may omit the argument. | Keep the default.
parameter-optional | works | fails | New callers may omit what old handlers require. | Deploy the handlers first.
default-changed | meaning | meaning | Who omits the value gets the other default. | Send it always, or add another.
parameter-renamed | fails | fails |\
    By URL, the other name is refused. By position, it gets the value. | Declare `older_names` if both mean the same.
parameter-name-added | works | fails | By URL, old handlers do not know the new name. | Deploy the handlers first.
position-renamed | meaning | meaning |\
    Values go by position: the same one arrives under another name. | Check that both names mean the same.
positions-reordered | meaning | meaning |\
    Values go by position: they arrive in the places of others. | Keep the order, and append what is new.
parameter-before-rest | meaning | meaning | A further argument becomes a parameter, or the reverse. | Add another event.

unit-changed | meaning | meaning | The same number is read in another unit. | Add a parameter or field for the new unit.
unit-declared | works | works | Nothing is sent differently. | Check that old values had this unit, too.
unit-removed | meaning | meaning | Nothing says the unit of the number any more. | Declare its unit.
type-changed | fails | fails | Neither version reads all values of the other. | Add a parameter, a field or an event.
type-widened | works | fails | Old programs refuse values that are allowed now. | Deploy the readers first.
type-narrowed | fails | works | New programs refuse values that were allowed. | Send only remaining values first.
null-allowed | works | fails | Old programs refuse null. | Deploy the readers first.
null-refused | fails | works | New programs refuse null. | Stop sending null first.
integer-to-number | meaning | fails |\
    Old programs refuse fractions; new ones round integers above 2⁵³. | Deploy the readers first, and limit the range.
number-to-integer | fails | meaning |\
    New programs refuse fractions; old ones round integers above 2⁵³. | Send only integers first, and limit the range.
text-to-bytes | meaning | fails |\
    New programs decode text as base64, if they can. Old ones refuse bytes. | Add a field for the bytes.
bytes-to-text | fails | meaning |\
    New programs refuse bytes (in JSON, they read base64). Old ones decode text as base64. | Add a field for the text.
list-to-set | meaning | works | New programs lose the order and duplicates. | Keep the list.
set-to-list | works | meaning | Old programs lose the order and duplicates. | Send each value once.
constraint-tightened | fails | works | New programs refuse values that were allowed. | Send only remaining values first.
constraint-loosened | works | fails | Old programs refuse values that are allowed now. | Deploy the readers first.
constraint-changed | fails | fails | Each version refuses values of the other. | Allow both forms first.
constraint-unchecked | works | works |\
    Generated clients do not check it; classes written by hand do. | With such classes, compare with `--shared-classes`.
dict-to-class | meaning | works | New programs lose the keys that the class does not have. | Keep the dict.
class-to-dict | works | meaning | Old programs lose the keys that the class does not have. | Deploy the readers first.
enum-value-added | works | fails | Old programs refuse the value. | Deploy the readers first.
enum-value-removed | fails | works | New programs refuse the value. | Stop sending it first.
enum-renumbered | meaning | meaning | The value now stands for another member. | Give each member its old value.
enum-member-renamed | works | works | Only the value is sent. | Nothing to do.
variant-added | works | fails | Old programs do not know the tag. | Deploy the readers first.
variant-removed | fails | works | New programs do not know the tag. | Stop sending it first.
tag-changed | fails | fails | Each version refuses the tag of the other. | Keep the tag: `tag="old name"`.

field-added | fails | meaning |\
    Old callers do not send it; old handlers ignore it silently. | Give it a default, and deploy the handlers first.
field-added-optional | works | meaning | Old handlers ignore it silently. | Deploy the handlers first.
field-removed | meaning | fails |\
    New handlers ignore it silently; old ones miss it. | Keep the field until no caller sends it.
field-removed-optional | meaning | works | New handlers ignore it silently. | Keep the field until no caller sends it.
result-field-added | fails | works | New callers miss the field in old results. | Deploy the handlers first.
result-field-added-default | meaning | works |\
    New callers take the default for a value of the old handler. | Let null be its default, and check for null.
result-field-added-optional | works | works | Callers see that the field is missing. | Nothing to do.
result-field-removed | works | fails | Old callers miss the field. | Keep it until no caller reads it.
result-field-removed-default | works | meaning |\
    Old callers take the default for a value of the new handler. | Keep it until no caller reads it.
result-field-removed-optional | works | works | Callers see that the field is missing. | Nothing to do.
field-deprecated | works | works | Generated clients mark the field. | Remove it when nobody uses it.
older-name-added | works | fails | Old handlers do not know the new name. | Deploy the handlers first.
older-name-added-optional | works | meaning | Old handlers ignore the new name silently. | Deploy the handlers first.
older-name-removed | works | works | Only callers before the old version send it. | Check that none is left.
added-field-refused | works | fails | The old class forbids unknown fields. | Allow them first.
removed-field-refused | fails | works | The new class forbids unknown fields. | Keep the field.
field-required | fails | works | Old programs may omit the field. | Keep the default.
field-optional | works | fails | New programs may omit the field, which old ones require. | Deploy the readers first.
"""


def _read(table: str) -> dict[str, Rule]:
    rows = ([cell.strip() for cell in line.split("|")] for line in table.splitlines() if line)
    return {name: msgspec.convert(others, Rule) for name, *others in rows}


RULES = _read(_TABLE)
"""The rules by name. A rule for arguments and results is written for arguments."""


class Change(msgspec.Struct, frozen=True):
    """One change.

    Attributes:
        rule: the name of the rule in `RULES`.
        place: the event, and what of it: ``orders:create(order).lines[].sku`` is a field of an argument,
            ``order_list.result.next`` of a result.
        kinds: whom it breaks.
        old_caller: what happens if an old caller meets a new handler.
        new_caller: what happens if a new caller meets an old handler.
        old_peers: what happens if a new program meets peers of the old version.
        text: what happens.
        do: what to do instead.
        old: what has changed in the old description, such as a name or a schema. None if there is nothing.
        new: what it is in the new description.
    """

    rule: str
    place: str
    kinds: tuple[Kind, ...]
    old_caller: Outcome
    new_caller: Outcome
    old_peers: Outcome
    text: str
    do: str
    old: Any
    new: Any


Side = Literal["this program", "its peers"]
"""The described program, or the programs at the other ends of its connections, which were perhaps generated."""
OTHER_SIDE: dict[Side, Side] = {"this program": "its peers", "its peers": "this program"}


class Place(NamedTuple):
    """A place in a contract."""

    text: str
    handler: Side
    """Who handles the event."""
    reader: Side
    """Who reads the values there: the handler if they are arguments, and its caller if they are results."""

    @property
    def is_result(self) -> bool:
        return self.reader != self.handler

    def at(self, more: str) -> Place:
        """Return a place inside this one."""
        return self._replace(text=self.text + more)


def change_at(rule: str, place: Place, old: Any = None, new: Any = None) -> Change:
    row = RULES[rule]
    outcomes = (row.old_reads_new, row.new_reads_old) if place.is_result else (row.new_reads_old, row.old_reads_new)
    old_peers = outcomes[0 if place.handler == "this program" else 1]
    do = row.do.replace("eploy the handlers", f"eploy the handlers ({place.handler})")
    do = do.replace("eploy the readers", f"eploy the readers ({place.reader})")
    return Change(rule, place.text, kinds_of(*outcomes), *outcomes, old_peers, row.happens, do, old, new)
