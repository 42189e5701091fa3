"""The picture of the house, from the code's imports: `python docs/house.py` writes docs/pictures/house.svg."""

from __future__ import annotations

import ast
import textwrap
from collections.abc import Iterator
from functools import cache
from html import escape
from itertools import permutations, product
from pathlib import Path

ROOT = Path(__file__).parents[1]
PICTURE = ROOT / "docs" / "pictures" / "house.svg"
ROOMS = ("study.stages", "study.engine", "study.science", "study.data", "tracking", "models")
COMMANDS = "commands"  # and what only they share: all else in study/
GUARDED = ("mlflow", "optuna")  # packages that one room alone may import
WIDTH, HEIGHT, GAP, DROP, MARGIN = 1040, 112, 28, 54, 16  # of a floor, between rooms, floors, around, in pixels
ARROW = 'fill="none" stroke="#0060a0" stroke-width="2" marker-end="url(#head)"'
HEAD = (
    '<marker id="head" viewBox="0 0 8 8" refX="7" refY="4" markerWidth="8" markerHeight="8" orient="auto"'
    ' markerUnits="userSpaceOnUse"><path d="M0 0L8 4L0 8z" fill="#0060a0"/></marker>'
)
LINE, LETTER = 17, 7.4  # height of a line and width of a letter


def room(module: str) -> str:
    """The room that a module is in; "" if it is none of ours."""
    for name in ROOMS:
        if f"{module}.".startswith(f"{name}."):
            return name
    return COMMANDS if module.split(".")[0] == "study" else ""


@cache
def files() -> dict[Path, str]:
    """Every file of ours and its room."""
    found = [path for package in ("models", "tracking", "study") for path in sorted((ROOT / package).rglob("*.py"))]
    return {path: room(".".join(path.relative_to(ROOT).with_suffix("").parts)) for path in found}


@cache
def imported(path: Path) -> set[str]:
    """Every name that the file imports, with its module's."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            found |= {f"{node.module}.{alias.name}" for alias in node.names}
    return found


def arrows() -> set[tuple[str, str]]:
    """Who imports whom, a room from a room."""
    found = {(here, room(name)) for path, here in files().items() for name in imported(path)}
    return {(here, there) for here, there in found if there and here != there}


def floors(arrows: set[tuple[str, str]]) -> list[list[str]]:
    """The rooms from top to bottom: each above all that it imports, beside each other so that arrows are short."""

    def height(name: str) -> int:
        return 1 + max((height(there) for here, there in arrows if here == name), default=-1)

    levels: dict[int, list[str]] = {}
    for name in (COMMANDS, *ROOMS):
        levels.setdefault(height(name), []).append(name)
    orders = product(*(permutations(levels[level]) for level in sorted(levels, reverse=True)))

    def length(order: tuple[tuple[str, ...], ...]) -> float:
        place = {name: left + width / 2 for row in order for name, (left, width) in places(list(row)).items()}
        return sum(abs(place[here] - place[there]) for here, there in arrows)

    return [list(row) for row in min(orders, key=length)]


def places(row: list[str]) -> dict[str, tuple[float, float]]:
    """The left side and the width of each room on a floor."""
    width = (WIDTH - GAP * (len(row) - 1)) / len(row)
    return {name: (MARGIN + (width + GAP) * number, width) for number, name in enumerate(row)}


def about(name: str) -> str:
    """What a room is for, by its docstring; of the commands, which there are."""
    if name != COMMANDS:
        text = ast.get_docstring(ast.parse((ROOT / name.replace(".", "/") / "__init__.py").read_text())) or ""
        inside = sorted(path.parent.name for path in (ROOT / "study" / "stages").glob("*/__init__.py"))
        first = text.partition("\n\n")[0].replace("\n", " ").replace("`", "")
        return f"{first} {', '.join(inside)}." if name == "study.stages" else first
    names = {path for path, here in files().items() if here == COMMANDS and path.name != "__init__.py"}
    started = {path for path in names if path.name == "__main__.py" or '__name__ == "__main__"' in path.read_text()}
    commands = sorted(path.parent.name if path.name == "__main__.py" else path.stem for path in started)
    shared = sorted(path.stem for path in names - started if path.parent == ROOT / "study")
    return f"python -m study. ... {', '.join(commands)}. What they share: {', '.join(shared)}."


def svg() -> str:
    """The picture: an arrow for each import, but one that a way through other rooms implies stands in the room."""
    every = arrows()
    implied = {(a, c) for a, b in every for other, c in every if b == other and (a, c) in every}
    rows = floors(every)
    floor = {name: level for level, row in enumerate(rows) for name in row}
    place = {name: found for row in rows for name, found in places(row).items()}
    parts = [part for name in floor for part in drawn_room(name, place[name], top(floor[name]), implied)]
    for here, there in sorted(every - implied):
        (left, width), (left_, width_) = place[here], place[there]
        middle, middle_ = left + width / 2, left_ + width_ / 2
        start = min(max(middle + (middle_ - middle) * 0.3, left + 40), left + width - 40)
        end = min(max(middle_ + (middle - middle_) * 0.3, left_ + 40), left_ + width_ - 40)
        y, y_ = top(floor[here]) + HEIGHT, top(floor[there]) - 3
        way = f"M{start:.0f} {y} C{start:.0f} {y + 35} {end:.0f} {y_ - 35} {end:.0f} {y_}"
        parts.append(f'<path d="{way}" data-arrow="{here} {there}" {ARROW}/>')
    wide, high = WIDTH + 2 * MARGIN, top(len(rows)) - DROP + MARGIN
    return "\n".join(
        [
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {wide} {high}" width="{wide}" height="{high}">',
            "<title>The rooms of the house, and who imports whom</title>",
            f"<defs>{HEAD}</defs>",
            f'<rect width="{wide}" height="{high}" fill="#ffffff"/>',
            *parts,
            "</svg>\n",
        ]
    )


def top(floor: int) -> int:
    return MARGIN + floor * (HEIGHT + DROP)


def drawn_room(name: str, place: tuple[float, float], y: int, implied: set[tuple[str, str]]) -> Iterator[str]:
    """Its box, its name, what it is for, and what the arrows do not show."""
    left, width = place
    yield f'<rect x="{left:.0f}" y="{y}" width="{width:.0f}" height="{HEIGHT}" rx="8" fill="#f3f5f7" stroke="#5c6670"/>'
    yield text(left, y + 24, name, "font-weight: 600; font-size: 17px")
    for number, line in enumerate(textwrap.wrap(about(name), int((width - 24) / LETTER))):
        yield text(left, y + 45 + LINE * number, line)
    also = ", ".join(sorted(there for here, there in implied if here == name))
    alone = ", ".join(package for package in GUARDED if importers(package) == {name})
    notes = [f"alone imports {alone}"] * bool(alone) + [f"also imports {also}"] * bool(also)
    for number, line in enumerate(notes):
        yield text(left, y + HEIGHT - 11 - LINE * number, line, "font-style: italic")


def importers(package: str) -> set[str]:
    """The rooms that import this package of somebody else's."""
    prefix = f"{package}."
    return {here for path, here in files().items() if any(f"{name}.".startswith(prefix) for name in imported(path))}


def text(left: float, y: int, line: str, style: str = "") -> str:
    style = f"font-family: system-ui, sans-serif; font-size: 13px; fill: #1b1f24; {style}"
    return f'<text x="{left + 12:.0f}" y="{y}" style="{style.strip()}">{escape(line)}</text>'


if __name__ == "__main__":
    PICTURE.write_text(svg(), encoding="utf-8")
    print(PICTURE)
