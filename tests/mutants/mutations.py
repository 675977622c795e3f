"""Small defects that can be planted in a source: each a change of one expression or statement.

Pure: text in, mutants out. What no test of behaviour could or should notice is left alone: types,
docstrings, texts, logging, asserts, decorators, and changes that compile to the same code.
"""

from __future__ import annotations

import ast
import types
from collections.abc import Iterator
from dataclasses import dataclass

COMPARISONS: dict[type[ast.cmpop], str] = {
    ast.Lt: "<=",
    ast.LtE: "<",
    ast.Gt: ">=",
    ast.GtE: ">",
    ast.Eq: "!=",
    ast.NotEq: "==",
    ast.Is: "is not",
    ast.IsNot: "is",
    ast.In: "not in",
    ast.NotIn: "in",
}
OPERATORS: dict[type[ast.operator], str] = {
    ast.Add: "-",
    ast.Sub: "+",
    ast.Mult: "/",
    ast.Div: "*",
    ast.FloorDiv: "*",
    ast.Mod: "*",
    ast.Pow: "*",
    ast.BitOr: "&",
    ast.BitAnd: "|",
}
TWINS = {"min": "max", "max": "min", "any": "all", "all": "any"}
LOGGERS = {"log", "_log", "logging"}


@dataclass(frozen=True, kw_only=True)
class Mutant:
    """One defect.

    Attributes:
        line: where, from 1.
        place: function that it is in, by its dotted name in the module.
        kind: of the change.
        before, after: the changed expression or statement.
        source: the whole module with it.
    """

    line: int
    place: str
    kind: str
    before: str
    after: str
    source: str


def mutants_of(source: str) -> list[Mutant]:
    """Every mutant of a module, in the order of its text."""
    text = source.encode()
    starts = [0]
    for line in text.splitlines(keepends=True):
        starts.append(starts[-1] + len(line))
    untouched = _code(compile(source, "module", "exec"))
    found = []
    for place, node, kind, after in _Finder().all_of(ast.parse(source)):
        assert isinstance(node, ast.expr | ast.stmt)
        assert node.end_lineno is not None
        assert node.end_col_offset is not None
        first = starts[node.lineno - 1] + node.col_offset
        last = starts[node.end_lineno - 1] + node.end_col_offset
        changed = (text[:first] + after.encode() + text[last:]).decode()
        if _code(compile(changed, "module", "exec")) != untouched:
            before = text[first:last].decode()
            found.append(
                Mutant(
                    line=node.lineno,
                    place=place,
                    kind=kind,
                    before=before,
                    after=after,
                    source=changed,
                )
            )
    return sorted(found, key=lambda mutant: mutant.line)


def _code(code: types.CodeType) -> object:
    """What is executed, without where it stands in the file."""
    constants = tuple(
        _code(one) if isinstance(one, types.CodeType) else (type(one), one)
        for one in code.co_consts
    )
    return (code.co_name, code.co_code, code.co_names, code.co_varnames, constants)


Change = tuple[str, ast.AST, str, str]


class _Finder:
    """Walks a module and says which node could become which text."""

    def all_of(self, tree: ast.Module) -> Iterator[Change]:
        for statement in tree.body:
            yield from self._statement(statement, "")

    def _statement(self, node: ast.stmt, place: str) -> Iterator[Change]:
        if isinstance(node, ast.Import | ast.ImportFrom | ast.Assert) or _is_idle(node):
            return
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            yield from self._definition(node, f"{place}.{node.name}".lstrip("."))
            return
        if place and _may_go(node):
            yield place, node, "statement", "pass"
        match node:
            case ast.If(test=test) | ast.While(test=test):
                yield from self._negated(test, place)
            case ast.Return(value=ast.expr() as value) if not _is_none(value):
                yield place, value, "returned", "None"
            case ast.Break():
                yield place, node, "loop", "continue"
            case ast.Continue():
                yield place, node, "loop", "break"
            case ast.AugAssign(op=op) if type(op) in OPERATORS:
                sides = [ast.unparse(node.target), ast.unparse(node.value)]
                yield place, node, "operator", f"{sides[0]} {OPERATORS[type(op)]}= {sides[1]}"
        for child in ast.iter_child_nodes(node):
            yield from self._child(child, place, annotation=getattr(node, "annotation", None))

    def _definition(
        self, node: ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef, place: str
    ) -> Iterator[Change]:
        if isinstance(node, ast.ClassDef):
            if any("Protocol" in ast.unparse(base) for base in node.bases):
                return
        else:
            for default in (*node.args.defaults, *node.args.kw_defaults):
                if default is not None:
                    yield from self._expression(default, place)
        for statement in node.body:
            yield from self._statement(statement, place)

    def _child(self, child: ast.AST, place: str, *, annotation: ast.AST | None) -> Iterator[Change]:
        if child is annotation or isinstance(child, ast.pattern):
            return
        if isinstance(child, ast.keyword) and child.arg == "strict":
            return  # zip's assertion
        if isinstance(child, ast.stmt):
            yield from self._statement(child, place)
        elif isinstance(child, ast.expr):
            yield from self._expression(child, place)
        else:  # cases, handlers, comprehensions, keywords, arguments
            for grandchild in ast.iter_child_nodes(child):
                yield from self._child(grandchild, place, annotation=getattr(child, "type", None))

    def _negated(self, test: ast.expr, place: str) -> Iterator[Change]:
        if isinstance(test, ast.Compare | ast.UnaryOp):
            return  # its own change says the same or more
        yield place, test, "condition", f"not ({ast.unparse(test)})"

    def _expression(self, node: ast.expr, place: str) -> Iterator[Change]:
        match node:
            case ast.JoinedStr():
                return
            case ast.Call(func=function) if _is_logging(function):
                return
            case ast.Compare(ops=[op]) if type(op) in COMPARISONS:
                parts = [ast.unparse(node.left), ast.unparse(node.comparators[0])]
                yield place, node, "comparison", f"({parts[0]} {COMPARISONS[type(op)]} {parts[1]})"
            case ast.Compare(ops=[first, second]) if {type(first), type(second)} <= {*COMPARISONS}:
                parts = [ast.unparse(one) for one in (node.left, *node.comparators)]
                signs = [_sign(first), _sign(second)]
                for index, op in enumerate((first, second)):
                    other = [*signs]
                    other[index] = COMPARISONS[type(op)]
                    text = f"({parts[0]} {other[0]} {parts[1]} {other[1]} {parts[2]})"
                    yield place, node, "comparison", text
            case ast.BoolOp(op=op, values=values):
                word = " or " if isinstance(op, ast.And) else " and "
                yield place, node, "and/or", f"({word.join(f'({ast.unparse(v)})' for v in values)})"
            case ast.BinOp(op=op) if type(op) in OPERATORS and not _is_text(node):
                after = f"(({ast.unparse(node.left)}) {OPERATORS[type(op)]} "
                yield place, node, "operator", f"{after}({ast.unparse(node.right)}))"
            case ast.UnaryOp(op=ast.Not(), operand=operand):
                yield place, node, "condition", f"({ast.unparse(operand)})"
            case ast.UnaryOp(op=ast.USub(), operand=operand):
                yield place, node, "operator", f"({ast.unparse(operand)})"
            case ast.IfExp(test=test):
                yield from self._negated(test, place)
            case ast.Constant(value=bool() as value):
                yield place, node, "constant", str(not value)
            case ast.Constant(value=int() | float() as value):
                yield place, node, "constant", repr(value + 1)
            case ast.Call(func=ast.Name(id=name)) if name in TWINS:
                yield place, node.func, "twin", TWINS[name]
            case ast.Call(func=ast.Name(id="replace"), args=[_, *_]):
                for index in range(len(node.keywords)):
                    kept = [k for i, k in enumerate(node.keywords) if i != index]
                    left_out = ast.Call(func=node.func, args=node.args, keywords=kept)
                    yield place, node, "left out", ast.unparse(left_out)
        for child in ast.iter_child_nodes(node):
            yield from self._child(child, place, annotation=None)


def _sign(op: ast.cmpop) -> str:
    """How it is written."""
    return next(sign for kind, sign in _SIGNS.items() if isinstance(op, kind))


_SIGNS: dict[type[ast.cmpop], str] = {
    **{ast.Lt: "<", ast.LtE: "<=", ast.Gt: ">", ast.GtE: ">=", ast.Eq: "==", ast.NotEq: "!="},
    **{ast.Is: "is", ast.IsNot: "is not", ast.In: "in", ast.NotIn: "not in"},
}


def _is_idle(node: ast.stmt) -> bool:
    """Docstrings, `...` and logging."""
    if not isinstance(node, ast.Expr):
        return False
    if isinstance(node.value, ast.Constant):
        return True
    return isinstance(node.value, ast.Call) and _is_logging(node.value.func)


def _is_logging(function: ast.expr) -> bool:
    return isinstance(function, ast.Attribute) and (
        isinstance(function.value, ast.Name) and function.value.id in LOGGERS
    )


def _may_go(node: ast.stmt) -> bool:
    """Statements that can be left out and leave a program."""
    match node:
        case ast.Expr() | ast.Delete() | ast.Raise() | ast.AugAssign():
            return not (isinstance(node, ast.Expr) and isinstance(node.value, ast.Yield))
        case ast.Assign(targets=targets):
            return all(isinstance(target, ast.Attribute | ast.Subscript) for target in targets)
        case _:
            return False


def _is_none(value: ast.expr) -> bool:
    return isinstance(value, ast.Constant) and value.value is None


def _is_text(node: ast.BinOp) -> bool:
    """Whether it joins or formats texts, or unites types."""
    sides = (node.left, node.right)
    if isinstance(node.op, ast.BitOr) and any(ast.unparse(s)[:1].isupper() for s in sides):
        return True
    if any(isinstance(s, ast.JoinedStr) for s in sides):
        return True
    return any(isinstance(s, ast.Constant) and isinstance(s.value, str | None) for s in sides)
