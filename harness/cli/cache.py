"""``harness cache``: what is kept between runs, and throwing it away."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import click

from harness.cli.options import json_option, print_json
from harness.errors import UsageError

if TYPE_CHECKING:
    from harness.types import JSONValue


@click.command()
@click.argument("action", type=click.Choice(["show", "clear"]), default="show", metavar="[show|clear]")
@click.option("-y", "--yes", is_flag=True, help="Clear without asking.")
@click.option("--cache-dir", type=click.Path(path_type=Path), metavar="DIR", help="Look here instead.")
@json_option
def cache(action: str, yes: bool, cache_dir: Path | None, as_json: bool) -> int:
    """Show or clear what is kept: feature tables, saliency maps, digests of weight files, contact sheets.

    All are made anew at need.

    Downloaded weights lie in the hub's own cache and are left alone; harness doctor says where.

    \b
      harness cache
      harness cache clear --yes
    """
    folder = cache_dir or _default_folder()
    found = contents(folder)
    if action == "clear":
        if not yes and not _confirmed(found):
            click.echo("nothing was removed", err=True)
            return 1
        clear(folder)
        found = {**found, "cleared": True}
    if as_json:
        print_json(found)
    else:
        _show(found, cleared=action == "clear")
    return 0


def _default_folder() -> Path:
    from harness.paths import cache_dir

    return cache_dir()


def contents(folder: Path) -> dict[str, JSONValue]:
    """How much of what lies in a cache folder."""
    from harness.feature_cache import FeatureCache

    tables, table_bytes = FeatureCache(folder / "features").statistics()
    maps, digests, sheets = _saliency(folder), _digests(folder), _sheets(folder)
    return {
        "folder": str(folder),
        "feature_tables": tables,
        "feature_bytes": table_bytes,
        "saliency_sets": len({file.parent for file in maps}),
        "saliency_bytes": sum(file.stat().st_size for file in maps),
        "digests": len(digests),
        "digest_bytes": sum(file.stat().st_size for file in digests),
        "sheets": len(sheets),
        "sheet_bytes": sum(file.stat().st_size for file in sheets),
    }


def clear(folder: Path) -> None:
    """Remove feature tables, saliency maps, digests and contact sheets, nothing else that may lie in the folder."""
    from harness.feature_cache import FeatureCache

    FeatureCache(folder / "features").clear()
    if (folder / "saliency").is_dir():
        shutil.rmtree(folder / "saliency")
    for file in (*_digests(folder), *_sheets(folder)):
        file.unlink(missing_ok=True)


def _saliency(folder: Path) -> list[Path]:
    """The files of every set of maps: those of one model, view and data."""
    return sorted((folder / "saliency").glob("*/*.maps"))


def _digests(folder: Path) -> list[Path]:
    return sorted((folder / "digests").glob("*.json"))


def _sheets(folder: Path) -> list[Path]:
    return sorted((folder / "sheets").glob("*.png"))


def _confirmed(found: dict[str, JSONValue]) -> bool:
    what = (
        f"{found['feature_tables']} feature tables, {found['saliency_sets']} sets of saliency maps, "
        f"{found['digests']} digests and {found['sheets']} contact sheets in {found['folder']}"
    )
    if not sys.stdin.isatty():
        raise UsageError(f"cannot ask whether to remove {what}: this is no terminal", hint="harness cache clear --yes")
    return click.confirm(f"Remove {what}?", err=True)


def _show(found: dict[str, JSONValue], *, cleared: bool) -> None:
    from harness.diagnosis import readable_bytes
    from harness.report.tables import Table
    from harness.report.terminal import show

    rows = tuple(
        (label, str(found[count]), readable_bytes(int(str(found[size]))))
        for label, count, size in (
            ("feature tables", "feature_tables", "feature_bytes"),
            ("sets of saliency maps", "saliency_sets", "saliency_bytes"),
            ("digests of weight files", "digests", "digest_bytes"),
            ("contact sheets", "sheets", "sheet_bytes"),
        )
    )
    title = f"{found['folder']}{': removed' if cleared else ''}"
    show(Table(title=title, header=("kept", "count", "size"), rows=rows))
