"""Pages of text on stdout, as wide as the terminal: a wide table falls into several, other lines end between words.

A terminal cuts a line that is too long for it anywhere, so that half a number stands at the end of one and half at the
beginning of the next. Where stdout is no terminal and COLUMNS isn't set, nothing is folded: programs read it.
"""

import os
import re
import shutil
import sys
from collections.abc import Sequence

import click

from edgedistill.show import wrapped

WIDE = 100  # columns of a page that nobody folds
LEAST = 20  # columns; a terminal that says less doesn't know
HANGING = 2  # further spaces before what a line goes on with
RULE = re.compile(r"[─━]+")
COLOR = re.compile(r"\x1b\[[0-9;]*m")
GAP = re.compile(r" {2,}")

Span = tuple[int, int | None]  # of a column's characters


def page(text: str) -> None:
    """Print a page, or a part of one that is a table."""
    width = page_width()
    click.echo(text if width is None else fold(text, width))


def page_width() -> int | None:
    """The terminal's columns, or what COLUMNS says; None where there is neither."""
    if not sys.stdout.isatty() and not os.environ.get("COLUMNS", "").isdigit():
        return None
    return max(LEAST, shutil.get_terminal_size().columns)


def drawn_width() -> int:
    """The width to draw for, before `page` folds the tables: they need WIDE columns, whatever the terminal has."""
    return page_width() or WIDE


def colored() -> bool:
    """Whether what is drawn may have colours; what is folded loses them."""
    return sys.stdout.isatty()


def fold(text: str, width: int) -> str:
    """A text in lines of at most `width` characters, but for words that are longer; blank lines part its tables."""
    lines: list[str] = []
    block: list[str] = []
    for line in [*text.split("\n"), ""]:
        if line.strip():
            block.append(line)
            continue
        plain = [COLOR.sub("", other) for other in block]
        if any(len(other) > width for other in plain):
            block = _narrow_tables(plain, width) or [part for other in plain for part in _narrow_lines(other, width)]
        lines += [*block, line]
        block = []
    return "\n".join(lines[:-1])


def _narrow_lines(line: str, width: int) -> list[str]:
    return [line] if len(line) <= width else wrapped(line, width, HANGING)


def _narrow_tables(lines: Sequence[str], width: int) -> list[str]:
    """The lines of a table as several, each with the first column, of as many others as fit; none if they are no table.

    Where the first column is wide, its cell stands above those of its row.
    """
    rows = [line for line in lines if not RULE.fullmatch(line.strip())]
    columns = _columns(rows)
    # A column of marks or numbers before the names belongs to them.
    leading = 2 if len(columns) > 2 and _width(rows, columns[0]) < 4 else 1
    names = (columns[0][0], columns[leading - 1][1])
    others = columns[leading:]
    if len(rows) < 2 or not others:
        return []
    above = _width(rows, names) > width // 2
    room = width - HANGING - (0 if above else _width(rows, names))
    if any(_width(rows, span) > room for span in others):
        return []
    out: list[str] = []
    for panel in _panels([_width(rows, span) for span in others], room):
        start, stop = others[panel.start][0], others[panel.stop - 1][1]
        for line in lines:
            name, cells = line[slice(*names)].rstrip(), line[start:stop].rstrip()
            if RULE.fullmatch(line.strip()):
                out.append(line.strip()[:width])
            elif above:
                out += [name.strip()] if name.strip() else []
                out += [" " * HANGING + cells] if cells else []
            else:
                out.append(f"{name:{_width(rows, names)}}{' ' * HANGING}{cells}".rstrip())
        out.append("")
    return out[:-1]


def _panels(widths: Sequence[int], room: int) -> list[range]:
    """Which columns stand together: as many as fit, two spaces between them."""
    panels: list[range] = []
    first, used = 0, 0
    for index, width in enumerate(widths):
        if used and used + HANGING + width > room:
            panels.append(range(first, index))
            first, used = index, 0
        used += width + (HANGING if used else 0)
    return [*panels, range(first, len(widths))]


def _columns(rows: Sequence[str]) -> list[Span]:
    """Where the columns of a table begin and end: at two spaces or more in all of its rows."""
    longest = max(map(len, rows), default=0)
    filled = "".join("x" if any(row[at : at + 1].strip() for row in rows) else " " for at in range(longest))
    starts = [0, *(gap.end() for gap in GAP.finditer(filled) if gap.start() > 0)]
    stops: list[int | None] = [gap.start() for gap in GAP.finditer(filled) if gap.start() > 0]
    return list(zip(starts, [*stops, None], strict=True))


def _width(rows: Sequence[str], span: Span) -> int:
    return max(len(row[slice(*span)].rstrip()) for row in rows)
