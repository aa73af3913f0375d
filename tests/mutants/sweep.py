"""All one-operator changes of some modules, and those among them that no test sees.

    python -m tests.mutants.sweep agq/numerics/hadamard.py --tests tests/numerics --jobs 2

Operators, comparisons, constants, signs, conditions, smallest and largest are exchanged, and statements that change
something in place are left out. Not every survivor is a gap: some changes change nothing (tests/mutants/README.md).
"""

from __future__ import annotations

import argparse
import ast
import copy
import sys
from collections.abc import Iterator

from tests.mutants import forks

_OPERATORS = {
    ast.Add: ast.Sub, ast.Sub: ast.Add, ast.Mult: ast.Div, ast.Div: ast.Mult, ast.FloorDiv: ast.Mult,
    ast.Mod: ast.FloorDiv, ast.Pow: ast.Mult, ast.MatMult: ast.Mult, ast.LShift: ast.RShift, ast.RShift: ast.LShift,
    ast.BitAnd: ast.BitOr, ast.BitOr: ast.BitAnd, ast.BitXor: ast.BitOr,
}  # fmt: skip
_COMPARISONS = {
    ast.Lt: ast.LtE, ast.LtE: ast.Lt, ast.Gt: ast.GtE, ast.GtE: ast.Gt, ast.Eq: ast.NotEq, ast.NotEq: ast.Eq,
    ast.Is: ast.IsNot, ast.IsNot: ast.Is, ast.In: ast.NotIn, ast.NotIn: ast.In,
}  # fmt: skip
_NAMES = {"min": "max", "amin": "amax", "minimum": "maximum", "sum": "mean", "floor": "ceil", "add_": "sub_",
          "mul_": "div_", "cos": "sin", "zeros_like": "ones_like", "all": "any"}  # fmt: skip
_NAMES |= {new: old for old, new in _NAMES.items()}


def changed(node: ast.AST) -> Iterator[ast.AST | None]:
    """What may stand in a node's place; None: nothing."""
    new = copy.deepcopy(node)
    if isinstance(node, ast.BinOp | ast.AugAssign) and type(node.op) in _OPERATORS:
        new.op = _OPERATORS[type(node.op)]()
        yield new
    elif isinstance(node, ast.Compare) and type(node.ops[0]) in _COMPARISONS:
        new.ops[0] = _COMPARISONS[type(node.ops[0])]()
        yield new
    elif isinstance(node, ast.BoolOp):
        new.op = ast.Or() if isinstance(node.op, ast.And) else ast.And()
        yield new
    elif isinstance(node, ast.Constant) and isinstance(node.value, bool):
        yield ast.Constant(not node.value)
    elif isinstance(node, ast.Constant) and isinstance(node.value, int | float):
        yield ast.Constant(node.value + 1)
    elif isinstance(node, ast.UnaryOp):
        yield new.operand
    elif isinstance(node, ast.Attribute) and node.attr in _NAMES:
        new.attr = _NAMES[node.attr]
        yield new
    elif isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in _NAMES:
        new.func.id = _NAMES[node.func.id]
        yield new
    elif isinstance(node, ast.keyword) and node.arg in ("min", "max"):
        new.arg = "max" if node.arg == "min" else "min"
        yield new
    elif isinstance(node, ast.If | ast.IfExp):
        new.test = ast.UnaryOp(ast.Not(), node.test)
        yield new
    if isinstance(node, ast.AugAssign) or (isinstance(node, ast.Expr) and isinstance(node.value, ast.Call)):
        yield None


def _places(node: ast.AST) -> Iterator[tuple[ast.AST, str, int | None]]:
    """(parent, field, index) of everything that is computed: no docstrings, annotations, messages or decorators."""
    for field, value in ast.iter_fields(node):
        if field in ("annotation", "returns", "decorator_list", "msg"):
            continue
        for index, child in enumerate(value) if isinstance(value, list) else ((None, value),):
            if isinstance(child, ast.AST) and not isinstance(child, ast.Raise | ast.JoinedStr):
                yield node, field, index
                if not (isinstance(child, ast.UnaryOp) and isinstance(child.operand, ast.Constant)):
                    yield from _places(child)


def sites(text: str) -> Iterator[tuple[str, ast.Module]]:
    """(line and what was changed, the whole module changed) for every change of a module."""
    tree = ast.parse(text)
    for parent, field, index in _places(tree):
        value = getattr(parent, field)
        old = value if index is None else value[index]
        for new in changed(old):
            if new is None and index is None:
                continue
            node = ast.Pass() if new is None else new
            ast.copy_location(node, old)
            if index is None:
                setattr(parent, field, node)
            else:
                value[index] = node
            shown = ast.unparse(node)
            line = getattr(old, "lineno", 0)
            yield f"{line}: {ast.unparse(old)}  ->  {shown}", ast.fix_missing_locations(copy.deepcopy(tree))
            if index is None:
                setattr(parent, field, old)
            else:
                value[index] = old


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("modules", nargs="+", help="files, relative to the repository")
    parser.add_argument("--tests", nargs="+", required=True, help="arguments of pytest; fast tests first")
    parser.add_argument("--jobs", type=int, default=2)
    options = parser.parse_args()
    tests = tuple(options.tests)

    def changes() -> Iterator[forks.Change]:
        for file in options.modules:
            for what, tree in sites((forks.REPOSITORY / file).read_text()):
                yield forks.Change(f"{file}:{what}", file, compile(tree, file, "exec"), tests)

    def body(run: forks.Run) -> int:
        for result in run([forks.Change("unchanged", "", None, tests)], 1):
            if result.status != forks.GREEN:
                print(result.output)
                return 2
        count = survivors = 0
        for result in run(changes(), options.jobs):
            count += 1
            if result.status != forks.RED:
                survivors += 1
                print(result.change.name, "" if result.status == forks.GREEN else result.output, flush=True)
        print(f"{count} changes, {survivors} of them unseen")
        return 0

    return forks.with_tests(tests, body)


if __name__ == "__main__":
    sys.exit(main())
