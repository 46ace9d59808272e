"""Tables on a screen: drawn by rich on a terminal, plain aligned text elsewhere."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, TextIO

if TYPE_CHECKING:
    from harness.report.tables import Table


def show(table: Table, stream: TextIO | None = None) -> None:
    """Print ``table`` to ``stream`` (stdout by default)."""
    stream = stream or sys.stdout
    if stream.isatty():
        _show_rich(table, stream)
    else:
        print(plain(table), file=stream, flush=True)


def plain(table: Table) -> str:
    """``table`` as aligned text without colours or borders."""
    lines = [table.header, *table.rows]
    widths = [max(len(line[place]) for line in lines) for place in range(len(table.header))]
    out = [table.title] if table.title else []
    for line in lines:
        cells = [
            text.ljust(width) if place < table.labels else text.rjust(width)
            for place, (text, width) in enumerate(zip(line, widths, strict=True))
        ]
        out.append("  ".join(cells).rstrip())
    return "\n".join([*out, *table.notes])


def _show_rich(table: Table, stream: TextIO) -> None:
    from rich import box
    from rich.console import Console
    from rich.table import Table as RichTable
    from rich.text import Text

    drawn = RichTable(
        title=Text(table.title, style="bold") if table.title else None,
        title_justify="left",
        box=box.SIMPLE_HEAD,
        caption=Text("\n".join(table.notes)) if table.notes else None,
        caption_justify="left",
    )
    for place, head in enumerate(table.header):
        drawn.add_column(Text(head), justify="left" if place < table.labels else "right", overflow="fold")
    for row in table.rows:
        drawn.add_row(*(Text(cell) for cell in row))
    Console(file=stream).print(drawn)
