"""The small faults that can be made in the code of ``wsrpc/``, for scripts/mutants.py."""

from __future__ import annotations

import ast
import builtins
import copy
import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from types import CodeType
from typing import Any, NamedTuple

__all__ = ["ROOT", "Mutant", "compiled", "draw", "name_of", "population", "sources"]

ROOT = Path(__file__).resolve().parent.parent
PACKAGE = ROOT / "wsrpc"
LEFT_OUT = ("testing", "_command", "__main__")
"""The helpers for tests, and the command, which tests start as a process."""

COMPARISONS: dict[type[ast.cmpop], type[ast.cmpop]] = {
    ast.Lt: ast.LtE,
    ast.LtE: ast.Lt,
    ast.Gt: ast.GtE,
    ast.GtE: ast.Gt,
    ast.Eq: ast.NotEq,
    ast.NotEq: ast.Eq,
    ast.Is: ast.IsNot,
    ast.IsNot: ast.Is,
    ast.In: ast.NotIn,
    ast.NotIn: ast.In,
}
ARITHMETIC: dict[type[ast.operator], type[ast.operator]] = {
    ast.Add: ast.Sub,
    ast.Sub: ast.Add,
    ast.Mult: ast.FloorDiv,
    ast.FloorDiv: ast.Mult,
    ast.Div: ast.Mult,
    ast.Mod: ast.Mult,
    ast.LShift: ast.RShift,
    ast.RShift: ast.LShift,
}
NAMES_ONLY = {"__all__", "__slots__", "__match_args__"}
TYPES_ONLY = {"TypeVar", "ParamSpec", "TypeVarTuple", "NewType", "TypeAliasType"}
UNSEEN_OPTIONS = {"frozen", "slots", "eq", "gc", "weakref", "repr"}
"""Options of classes that change speed and text alone, or what the code never does."""
ANNOTATIONS = {"annotation", "returns", "type_params"}
LOG_CALL = re.compile(r"(^|[._])(log|logger|logging)\.\w+$|\.(log|_warn)$")
CHECK = re.compile(r"_?check_")
"""Functions that name in an error what they check."""
SENTENCE = re.compile(r"\w \w")


@dataclass(frozen=True)
class Mutant:
    """One small fault."""

    file: str
    function: str
    operator: str
    before: str
    after: str
    twin: int
    """How many mutants of the same function look the same and come earlier."""
    line: int
    reach: tuple[tuple[int, int], ...]
    """First and last lines. The tests that run any of the first lines count; if there are none, those of the second."""
    at_import: bool
    index: int
    """The number of the mutant in its file."""

    @property
    def package(self) -> str:
        parts = self.file.split("/")
        return parts[1] if len(parts) > 2 else "modules"

    @property
    def text(self) -> str:
        """What stays the same when the code moves within its function, or with it to another file."""
        return "\n".join([self.function, self.operator, self.before, self.after, str(self.twin)])

    @property
    def key(self) -> str:
        return f"{self.file}\n{self.text}"


Spot = tuple[ast.AST | list[Any], str | int]
"""A field of a node, or a number in a list of nodes."""


def put(spot: Spot, node: ast.AST) -> None:
    """Put a node in the place of another."""
    match spot:
        case (list() as nodes, int(number)):
            nodes[number] = node
        case (parent, str(name)):
            setattr(parent, name, node)


def children(node: ast.AST) -> Iterator[tuple[Spot, ast.AST]]:
    """The nodes directly below ``node``, each with its place, without annotations."""
    for name, value in ast.iter_fields(node):
        if name not in ANNOTATIONS:
            in_list = isinstance(value, list)
            for number, item in enumerate(value if in_list else [value]):
                if isinstance(item, ast.AST):
                    yield ((value, number) if in_list else (node, name)), item


def headline(node: ast.AST) -> str:
    """A statement in one line, without its body."""
    node = copy.copy(node)
    for name in ("body", "orelse", "finalbody", "handlers", "cases", "decorator_list"):
        if isinstance(getattr(node, name, None), list):
            setattr(node, name, [ast.Pass()] if name == "body" else [])
    return ast.unparse(node).partition("\n")[0]


def last_name(node: ast.AST) -> str:
    return ast.unparse(node).rpartition(".")[2]


def error_names() -> set[str]:
    tree = ast.parse((PACKAGE / "errors.py").read_text("utf-8"))
    ours = {node.name for node in tree.body if isinstance(node, ast.ClassDef)}
    return ours | {name for name in dir(builtins) if name[0].isupper() and name.endswith(("Error", "Exception"))}


class Place(NamedTuple):
    """Where a node is."""

    statement: ast.stmt | ast.Module
    function: str = ""
    outer: tuple[tuple[int, int], ...] = ((1, 10**9),)
    """Lines whose tests count for what runs at import: of the function, of the class, of the module."""
    at_import: bool = True
    text: bool = False
    """Whether it is a part of an error, whose text is not mutated."""


class Finder:
    """The mutants of one file, in the order of its text."""

    def __init__(self, file: str, errors: set[str]) -> None:
        self.mutants: list[Mutant] = []
        self.edits: list[tuple[Spot, ast.AST]] = []
        """The change of each mutant."""
        self.lines: set[int] = set()
        """Where statements begin, for the size of the file."""
        self.tree = ast.parse((ROOT / file).read_text("utf-8"))
        self._file = file
        self._errors = errors
        self._twins: Counter[tuple[str, ...]] = Counter()
        self._visit_below(self.tree, Place(self.tree))

    def _visit_below(self, node: ast.AST, place: Place) -> None:
        for spot, child in children(node):
            self._visit(spot, child, place)

    def _visit(self, spot: Spot, node: ast.AST, place: Place) -> None:
        if self._is_left_out(node, place):
            return
        if isinstance(node, ast.stmt):
            place = place._replace(statement=node)
            self.lines.add(node.lineno)
        match node:
            case ast.If(test=test) if last_name(test) == "TYPE_CHECKING":
                for number, other in enumerate(node.orelse):
                    self._visit((node.orelse, number), other, place)
                return
            case ast.Call(func=ast.Name("cast"), args=[_, value]):
                self._visit((node.args, 1), value, place)
                return
            case ast.JoinedStr():
                for part in node.values:
                    if isinstance(part, ast.FormattedValue) and not place.text:
                        self._visit((part, "value"), part.value, place)
                return
            case ast.FunctionDef() | ast.AsyncFunctionDef() | ast.ClassDef():
                self._visit_definition(node, place)
                return
            case ast.Lambda():
                place = place._replace(at_import=False)
            case ast.Raise():
                place = place._replace(text=True)
            case ast.Call(func=func) if last_name(func) in self._errors or CHECK.match(last_name(func)):
                place = place._replace(text=True)
            case ast.keyword():
                place = place._replace(text=False)
        for operator, new in replacements(node):
            if not (place.text and is_text(node)):
                self._add(spot, node, operator, new, place)
        for inner, child in children(node):
            if isinstance(child, ast.expr) and is_condition(inner, node) and not negates_otherwise(child):
                self._add(inner, child, "negated condition", ast.UnaryOp(ast.Not(), child), place)
            self._visit(inner, child, place)

    def _visit_definition(self, node: ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef, place: Place) -> None:
        lines = (node.body[0].lineno, node.end_lineno or node.lineno)
        head = place._replace(function=f"{place.function}.{node.name}".lstrip("."), outer=(lines, *place.outer))
        body = head if isinstance(node, ast.ClassDef) else head._replace(at_import=False)
        for spot, child in children(node):
            self._visit(spot, child, body if spot[0] is node.body else head)

    def _is_left_out(self, node: ast.AST, place: Place) -> bool:
        match node:
            case ast.Assert() | ast.Import() | ast.ImportFrom() | ast.Expr(value=ast.Constant()):
                return True
            case ast.FunctionDef() | ast.AsyncFunctionDef():
                return node.name == "__repr__" or any(last_name(each) == "overload" for each in node.decorator_list)
            case ast.Assign(targets=[ast.Name(name)]) | ast.AnnAssign(target=ast.Name(name)):
                # A subscript or a union of the module or a class is a type.
                a_type = isinstance(node.value, ast.Subscript | ast.BinOp) and "[" in ast.unparse(node.value)
                return name in NAMES_ONLY or (place.at_import and a_type)
            case ast.Call(func=func) | ast.Expr(value=ast.Call(func=func)) if LOG_CALL.search(ast.unparse(func)):
                return True
            case ast.Call(func=ast.Name(name)):
                return name in TYPES_ONLY
            case ast.Compare(left=left):
                return ast.unparse(left) == "sys.version_info"
            case ast.keyword(arg=str(name)):
                return place.at_import and name in UNSEEN_OPTIONS
        return False

    def _add(self, spot: Spot, node: ast.AST, operator: str, new: ast.AST, place: Place) -> None:
        statement = place.statement
        assert isinstance(node, ast.stmt | ast.expr) and isinstance(statement, ast.stmt)
        before = headline(statement)
        put(spot, new)
        after = headline(new if node is statement else statement)
        put(spot, node)
        if before == after:  # not in the first line, as a part of `match`
            before, after = f"{before} … {ast.unparse(node)}", f"{before} … {ast.unparse(new)}"
        names = (self._file, place.function, operator, before, after)
        body = getattr(statement, "body", None)
        end = body[0].lineno - 1 if body else statement.end_lineno or 0
        own = ((node.lineno, node.end_lineno or 0), (statement.lineno, max(end, statement.lineno)))
        reach = place.outer if place.at_import else own
        mutant = Mutant(*names, self._twins[names], node.lineno, reach, place.at_import, len(self.edits))
        self.mutants.append(mutant)
        self.edits.append((spot, ast.copy_location(new, node)))
        self._twins[names] += 1


def is_condition(spot: Spot, parent: ast.AST) -> bool:
    return spot[1] == "test" or (isinstance(parent, ast.comprehension) and spot[0] is parent.ifs)


def negates_otherwise(condition: ast.AST) -> bool:
    """Whether another operator turns a condition into its opposite."""
    match condition:
        case ast.Constant() | ast.UnaryOp(op=ast.Not()):
            return True
        case ast.Compare(ops=[op]):
            return not isinstance(op, ast.Lt | ast.LtE | ast.Gt | ast.GtE)
    return False


def is_text(node: ast.AST) -> bool:
    return isinstance(node, ast.JoinedStr) or (isinstance(node, ast.Constant) and isinstance(node.value, str))


def replacements(node: ast.AST) -> Iterator[tuple[str, ast.AST]]:
    """What may stand in the place of a node, each with the name of the operator."""
    match node:
        case ast.Compare(left, ops, others):
            for number, op in enumerate(ops):
                yield (
                    "comparison",
                    ast.Compare(left, [*ops[:number], COMPARISONS[type(op)](), *ops[number + 1 :]], others),
                )
        case ast.BoolOp(op, values):
            yield "and/or", ast.BoolOp(ast.Or() if isinstance(op, ast.And) else ast.And(), values)
        case ast.UnaryOp(op=ast.Not(), operand=operand):
            yield "negated condition", operand
        case ast.BinOp(left, sign, right) if type(sign) in ARITHMETIC and not is_text(left) and not is_text(right):
            yield "arithmetic", ast.BinOp(left, ARITHMETIC[type(sign)](), right)
        case ast.AugAssign(target, sign, right) if type(sign) in ARITHMETIC and not is_text(right):
            yield "arithmetic", ast.AugAssign(target, ARITHMETIC[type(sign)](), right)
        case ast.Constant(value=bool(value)):
            yield "constant", ast.Constant(not value)
        case ast.Constant(value=int(number)):
            yield "constant", ast.Constant(number + 1)
            yield "constant", ast.Constant(number - 1)
        case ast.Constant(value=str(text)) if text and not SENTENCE.search(text):
            yield "constant", ast.Constant("")
        case ast.Break():
            yield "break/continue", ast.Continue()
        case ast.Continue():
            yield "break/continue", ast.Break()
        case ast.Return(value=ast.expr() as returned) if ast.unparse(returned) != "None":
            yield "returned value", ast.Return(ast.Constant(None))
    match node:
        case ast.Raise() | ast.Expr(value=ast.Call() | ast.Await(value=ast.Call())):
            yield "removed statement", ast.Pass()
        case ast.Assign(targets=[ast.Attribute()]) | ast.AugAssign(target=ast.Attribute()):
            yield "removed statement", ast.Pass()
        case ast.AnnAssign(target=ast.Attribute(), value=ast.expr()):
            yield "removed statement", ast.Pass()


def sources() -> list[Path]:
    return sorted(PACKAGE.rglob("*.py"))


def name_of(path: Path) -> str:
    return str(path.relative_to(ROOT))


def population() -> tuple[list[Mutant], Counter[str]]:
    """Return all mutants, and how many lines of code each package has."""
    errors = error_names()
    mutants: list[Mutant] = []
    lines: Counter[str] = Counter()
    for path in sources():
        if path.relative_to(PACKAGE).with_suffix("").parts[0] not in LEFT_OUT:
            finder = Finder(name_of(path), errors)
            mutants += finder.mutants
            lines.update(dict.fromkeys((mutant.package for mutant in finder.mutants), len(finder.lines)))
    return mutants, lines


def draw(seed: int, count: int) -> list[Mutant]:
    """Choose mutants, as many of each package as its share of the lines of code."""
    mutants, lines = population()
    mutants.sort(key=lambda mutant: sha256(f"{seed}\n{mutant.text}".encode()).digest())
    left = Counter({package: round(count * size / lines.total()) for package, size in lines.items()})
    drawn: list[Mutant] = []
    for mutant in mutants:
        if left[mutant.package] > 0:
            left[mutant.package] -= 1
            drawn.append(mutant)
    return drawn


def compiled(mutant: Mutant) -> CodeType:
    """Compile the file of a mutant with its fault."""
    finder = Finder(mutant.file, error_names())
    put(*finder.edits[mutant.index])
    return compile(ast.fix_missing_locations(finder.tree), str(ROOT / mutant.file), "exec", dont_inherit=True)
