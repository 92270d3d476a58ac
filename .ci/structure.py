"""Prints the shape of the package's import graph, and fails where it outgrows its bounds.

    python .ci/structure.py [--root DIR]

A room is a file or folder at the top of the package. An arrow is an import, also one inside
a function. A circle is a set of modules (or rooms) that import each other. The number of
floors is the length of the longest chain of imports between rooms, a circle counted as one
room. Which room stands on which floor is read from import-linter's contract of layers in
setup.cfg; an arrow that does not point to a lower floor points upwards.

`--root` looks at another checkout. Nothing of the package is imported.
"""

import argparse
import ast
import configparser
import functools
import sys
from collections import defaultdict
from collections.abc import Iterable, Iterator
from pathlib import Path

import grimp

PACKAGE = "keras_e2e"
MOST_ROOMS = 13
MOST_FLOORS = 8
MOST_LINES_OF_A_FILE = 300
MOST_LINES_OF_A_FUNCTION = 50

Arrows = dict[str, set[str]]


def room_of(module: str) -> str:
    """The file or folder at the top of the package that a module belongs to."""
    _, *inner = module.split(".")
    return inner[0] if inner else "__init__"


def module_arrows(root: Path) -> Arrows:
    """Each module of the package with the modules that it imports."""
    sys.path.insert(0, str(root))
    graph = grimp.build_graph(PACKAGE, cache_dir=None)
    arrows = {m: graph.find_modules_directly_imported_by(m) for m in graph.modules}
    return {module: set(targets) for module, targets in arrows.items()}


def room_arrows(arrows: Arrows) -> Arrows:
    """Each room with the other rooms that it imports."""
    rooms: Arrows = {room_of(module): set() for module in arrows}
    for module, targets in arrows.items():
        rooms[room_of(module)] |= {room_of(target) for target in targets}
    return {room: targets - {room} for room, targets in rooms.items()}


def reachable(arrows: Arrows, start: str) -> set[str]:
    """What can be reached from a node in one step or more."""
    found: set[str] = set()
    ahead = list(arrows[start])
    while ahead:
        node = ahead.pop()
        if node not in found:
            found.add(node)
            ahead += arrows[node]
    return found


def circles(arrows: Arrows) -> list[tuple[str, ...]]:
    """The sets of nodes that can be reached from each other."""
    reach = {node: reachable(arrows, node) for node in arrows}
    found = {
        tuple(sorted(other for other in reach[node] if node in reach[other]))
        for node in arrows
        if node in reach[node]
    }
    return sorted(found)


def count_floors(arrows: Arrows) -> int:
    """The length of the longest chain of nodes, a circle counted as one node."""
    whole = {node: circle for circle in circles(arrows) for node in circle}
    merged: dict[tuple[str, ...], set[tuple[str, ...]]] = defaultdict(set)
    for node, targets in arrows.items():
        here = whole.get(node, (node,))
        merged[here] |= {whole.get(target, (target,)) for target in targets} - {here}

    @functools.cache
    def height(node: tuple[str, ...]) -> int:
        return 1 + max(map(height, merged[node]), default=0)

    return max(map(height, tuple(merged)))


def floors_of(root: Path) -> dict[str, int]:
    """The floor of each room that setup.cfg names, counted from the ground."""
    config = configparser.ConfigParser()
    config.read(root / "setup.cfg")
    layers = next(
        (
            section["layers"].split("\n")
            for name, section in config.items()
            if name.startswith("importlinter:contract:") and section["type"] == "layers"
        ),
        [],
    )
    lines = [line.replace("|", " ").replace(":", " ").split() for line in layers]
    upwards = enumerate(reversed([line for line in lines if line]), start=1)
    floors = {r.removeprefix(f"{PACKAGE}."): floor for floor, line in upwards for r in line}
    return {**floors, "__init__": len(floors) + 1}


def upward(arrows: Arrows, floors: dict[str, int]) -> Iterator[str]:
    """The imports between rooms that do not point to a lower floor."""
    for module, target in pairs(arrows):
        here, there = room_of(module), room_of(target)
        judged = here != there and {here, there} <= floors.keys()
        if judged and floors[here] <= floors[there]:
            yield f"arrow upwards: {module} imports {target}"


def pairs(arrows: Arrows) -> list[tuple[str, str]]:
    """All arrows."""
    return sorted((node, target) for node in arrows for target in arrows[node])


def function_lines(function: ast.FunctionDef | ast.AsyncFunctionDef) -> int:
    """The lines of a function from `def` to its end, but for the docstring."""
    first = function.body[0]
    lines = (function.end_lineno or 0) - function.lineno + 1
    if ast.get_docstring(function, clean=False) is not None:
        lines -= (first.end_lineno or 0) - first.lineno + 1
    return lines


def asserts_not_none(statement: ast.Assert) -> bool:
    """Whether an `assert` says that a value is not None."""
    return any(
        isinstance(part, ast.Compare)
        and isinstance(part.ops[-1], ast.IsNot)
        and isinstance(part.comparators[-1], ast.Constant)
        and part.comparators[-1].value is None
        for part in ast.walk(statement.test)
    )


def faults_of_file(path: Path, name: str) -> Iterator[str]:
    """What is too long in a file, and what it asserts for the type checker alone."""
    text = path.read_text()
    if (lines := text.count("\n")) > MOST_LINES_OF_A_FILE:
        yield f"{name}: {lines} lines, at most {MOST_LINES_OF_A_FILE}"
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            if (lines := function_lines(node)) > MOST_LINES_OF_A_FUNCTION:
                yield (
                    f"{name}:{node.lineno}: {node.name} has {lines} lines without its "
                    f"docstring, at most {MOST_LINES_OF_A_FUNCTION}"
                )
        elif isinstance(node, ast.Assert) and asserts_not_none(node):
            yield (
                f"{name}:{node.lineno}: `assert ... is not None`; give the value a type "
                f"that is never None"
            )


def faults_of_files(root: Path) -> Iterator[str]:
    """What is wrong in the files of the package."""
    for path in sorted((root / PACKAGE).rglob("*.py")):
        yield from faults_of_file(path, str(path.relative_to(root)))


def faults(root: Path, arrows: Arrows) -> Iterator[str]:
    """Everything that is out of bounds, a sentence each."""
    rooms = room_arrows(arrows)
    if len(rooms) > MOST_ROOMS:
        yield f"{len(rooms)} rooms, at most {MOST_ROOMS}"
    if (floors := count_floors(rooms)) > MOST_FLOORS:
        yield f"{floors} floors, at most {MOST_FLOORS}"
    for circle in circles(rooms) + circles(arrows):
        yield "circle: " + " ~ ".join(circle)
    yield from upward(arrows, floors_of(root))
    yield from faults_of_files(root)


def within_a_room(circle: Iterable[str]) -> bool:
    """Whether all modules of a circle belong to the same room."""
    return len({room_of(module) for module in circle}) == 1


def show(arrows: Arrows) -> None:
    """Prints the counts."""
    rooms = room_arrows(arrows)
    crossing = [1 for a, b in pairs(arrows) if room_of(a) != room_of(b)]
    inside = [circle for circle in circles(arrows) if within_a_room(circle)]
    rows = {
        "rooms at the top": (len(rooms), f"at most {MOST_ROOMS}"),
        "modules": (len(arrows), ""),
        "floors": (count_floors(rooms), f"at most {MOST_FLOORS}"),
        "arrows between rooms": (len(pairs(rooms)), ""),
        "arrows between modules": (len(pairs(arrows)), f"{len(crossing)} cross rooms"),
        "circles between rooms": (len(circles(rooms)), "none allowed"),
        "circles inside a room": (len(inside), "none allowed"),
    }
    for name, (count, note) in rows.items():
        print(f"{name:24}{count:5}  {note}".rstrip())


def main() -> None:
    """Prints the counts and what is out of bounds; the exit status tells."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--root", type=Path, default=Path(__file__).parents[1])
    root = parser.parse_args().root.resolve()
    arrows = module_arrows(root)
    show(arrows)
    found = list(faults(root, arrows))
    print(*found, sep="\n")
    sys.exit(f"{len(found)} out of bounds" if found else 0)


if __name__ == "__main__":
    main()
