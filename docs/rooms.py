"""The rooms of ``src/fastmgr``, the arrows between them, and a drawing of both.

Run it to draw ``docs/rooms.svg`` (``make graph``).  It fails where an import runs back: from a
room to one that stands above it, or beside it in the same row.
"""

from __future__ import annotations

import ast
import re
import sys
from pathlib import Path
from typing import NamedTuple

HERE = Path(__file__).resolve().parent
SOURCE = HERE.parent / "src" / "fastmgr"

#: Top to bottom: a room may import from the rows below its own, and from itself.
ROWS = [
    ["cli"],
    ["contrib"],
    ["public face"],
    ["engines"],
    ["server", "client"],
    ["stock", "kinds"],
    ["link"],
    ["wire", "memory"],
]
ROW_OF = {room: number for number, row in enumerate(ROWS) for room in row}
#: `_core` is the package's entry to the engine, and the build expects it at the top.
MODULES_ELSEWHERE = {"_core": "server", "__main__": "cli"}

COMMENT = re.compile(r"#[^\n]*")
FROM = re.compile(r"^\s*from\s+([\w.]+)\s+c?import\s+(\([^)]*\)|[^\n]*)", re.MULTILINE)
PLAIN = re.compile(r"^\s*c?import\s+([^\n]*)", re.MULTILINE)


class Import(NamedTuple):
    """One module imports another."""

    importer: str
    imported: str


def modules() -> dict[str, list[Path]]:
    """Map the name of each module, without the package's, to its sources."""
    found: dict[str, list[Path]] = {}
    for path in sorted(SOURCE.rglob("*")):
        if path.suffix in (".py", ".pyx", ".pxd"):
            name = ".".join(path.relative_to(SOURCE).with_suffix("").parts)
            found.setdefault(name.removesuffix(".__init__"), []).append(path)
    return found


def room_of(module: str) -> str:
    """Return the room that a module is in."""
    if "." in module:
        return module.partition(".")[0]
    return MODULES_ELSEWHERE.get(module, module if module in ROW_OF else "public face")


def imports() -> set[Import]:
    """Return every import and cimport of the package's own modules, but for type checkers'."""
    return {
        Import(importer, imported)
        for importer, paths in modules().items()
        for path in paths
        for imported in imported_by(path.relative_to(SOURCE), path.read_text())
        if imported != importer
    }


def imported_by(path: Path, text: str) -> set[str]:
    """Return the package's modules that a source imports; `path` is the source's in the package."""
    found = (_of_python if path.suffix == ".py" else _of_cython)(text)
    known = modules()
    result = set()
    for name in found:
        dots = len(name) - len(name.lstrip("."))
        above = path.parts[: len(path.parts) - dots] if dots else ()
        parts = [*(("fastmgr", *above) if dots else ()), *name[dots:].split(".")]
        if parts.pop(0) == "fastmgr":
            # What is imported from a module is none.
            while parts and ".".join(parts) not in known:
                parts.pop()
            result.add(".".join(parts) or "__init__")
    return result


def _of_python(text: str) -> list[str]:
    found = []
    nodes: list[ast.AST] = [ast.parse(text)]
    while nodes:
        node = nodes.pop()
        if isinstance(node, ast.ImportFrom):
            start = "." * node.level + (f"{node.module}." if node.module else "")
            found += [start + alias.name for alias in node.names]
        elif isinstance(node, ast.Import):
            found += [alias.name for alias in node.names]
        elif isinstance(node, ast.If) and _is_type_checking(node.test):
            nodes += node.orelse
        elif (
            isinstance(node, ast.If)
            and isinstance(node.test, ast.UnaryOp)
            and isinstance(node.test.op, ast.Not)
            and _is_type_checking(node.test.operand)
        ):
            nodes += node.body
        else:
            nodes += ast.iter_child_nodes(node)
    return found


def _is_type_checking(test: ast.expr) -> bool:
    return "TYPE_CHECKING" in (getattr(test, "id", None), getattr(test, "attr", None))


def _of_cython(text: str) -> list[str]:
    text = COMMENT.sub("", text)
    found = [
        match[1] + ("" if match[1].endswith(".") else ".") + name.split()[0]
        for match in FROM.finditer(text)
        for name in match[2].strip("()").split(",")
        if name.strip()
    ]
    return found + [
        name.split()[0]
        for match in PLAIN.finditer(text)
        for name in match[1].split(",")
        if name.strip()
    ]


def backward() -> list[str]:
    """Return the imports that run back, in words."""
    return [
        f"{one.importer} (room {room_of(one.importer)}) imports {one.imported} "
        f"(room {room_of(one.imported)})"
        for one in sorted(imports())
        if room_of(one.importer) != room_of(one.imported)
        and ROW_OF[room_of(one.importer)] >= ROW_OF[room_of(one.imported)]
    ]


# -- the drawing -----------------------------------------------------------------

WIDTH, MARGIN, LINE, TITLE, GAP = 1000, 20, 18, 30, 56


def draw() -> str:
    """Draw the rooms in their rows, with an arrow where one imports from another."""
    members: dict[str, list[str]] = {room: [] for room in ROW_OF}
    for module in modules():
        if module not in ROW_OF:
            members[room_of(module)].append(module.rpartition(".")[2])
    boxes = {}
    y = MARGIN
    for row in ROWS:
        width = (WIDTH - MARGIN * (len(row) + 1)) // len(row)
        lines = {room: _wrap(members[room], width) for room in row}
        height = TITLE + LINE * max(map(len, lines.values())) + 8
        for number, room in enumerate(row):
            boxes[room] = MARGIN + number * (width + MARGIN), y, width, height, lines[room]
        y += height + GAP
    arrows = {(room_of(one.importer), room_of(one.imported)) for one in imports()}
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {y - GAP + MARGIN}" '
        'font-family="sans-serif" font-size="14">',
        '<defs><marker id="tip" viewBox="0 0 8 8" refX="8" refY="4" markerWidth="8" '
        'markerHeight="8" orient="auto"><path d="M0 0L8 4L0 8z" fill="#557"/></marker></defs>',
        '<rect width="100%" height="100%" fill="#fff"/>',
    ]
    for importer, imported in sorted(arrows):
        # What follows from two others would only cross them.
        by_way = (
            (importer, room) in arrows and (room, imported) in arrows
            for room in ROW_OF
            if room not in (importer, imported)
        )
        if importer != imported and not any(by_way):
            parts.append(_arrow(boxes, importer, imported))
    for room, (left, top, width, height, lines) in boxes.items():
        parts.append(
            f'<rect x="{left}" y="{top}" width="{width}" height="{height}" rx="6" '
            'fill="#f3f5fa" stroke="#557"/>'
            f'<text x="{left + 12}" y="{top + 21}" font-weight="bold">{room}</text>'
        )
        for number, line in enumerate(lines):
            at = top + TITLE + 14 + LINE * number
            parts.append(f'<text x="{left + 12}" y="{at}" fill="#333">{line}</text>')
    return "\n".join([*parts, "</svg>", ""])


def _wrap(names: list[str], width: int) -> list[str]:
    lines = [""]
    for name in sorted(names):
        if len(lines[-1]) + len(name) > width // 8:
            lines.append("")
        lines[-1] += ("   " if lines[-1] else "") + name
    return lines


def _arrow(boxes: dict[str, tuple[int, int, int, int, list[str]]], start: str, end: str) -> str:
    left, top, width, height, _ = boxes[start]
    other_left, other_top, other_width, _, _ = boxes[end]
    return (
        f'<path d="M{left + width // 2} {top + height}L{other_left + other_width // 2} '
        f'{other_top}" fill="none" stroke="#557" marker-end="url(#tip)"/>'
    )


if __name__ == "__main__":
    (HERE / "rooms.svg").write_text(draw())
    sys.exit("\n".join(backward()) or 0)
