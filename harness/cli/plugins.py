"""``harness plugins``: who offers what, and what is wrong with those who cannot."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from harness.cli.options import json_option, open_catalog, print_json, setup_options
from harness.naming import plural

if TYPE_CHECKING:
    from pathlib import Path

    from harness.manager import HarnessManager, PluginRow
    from harness.types import JSONValue


@click.command()
@setup_options
@json_option
def plugins(as_json: bool, registry_files: tuple[Path, ...], no_plugin: tuple[str, ...], strict_plugins: bool) -> None:
    """List plugins: distribution, version, whether they work, and what they offer.

    A broken plugin takes nothing with it; --strict-plugins makes it an error (exit code 3).

    \b
      harness plugins
      harness plugins --strict-plugins
    """
    manager = open_catalog(registry_files, no_plugin, strict_plugins).manager
    if as_json:
        print_json([plugin_fields(row) for row in manager.plugins()])
    else:
        _show(manager)


def plugin_fields(row: PluginRow) -> dict[str, JSONValue]:
    """One plugin for machines; ``offers`` counts its entries by kind."""
    return {
        "name": row.name,
        "distribution": row.distribution,
        "version": row.version,
        "status": row.status,
        "reason": row.reason,
        "offers": {kind: count for kind, count in row.counts.items() if count},
    }


def offers_text(row: PluginRow) -> str:
    """What a plugin offers, such as ``1 model, 2 probes``."""
    return ", ".join(f"{count} {kind if count == 1 else plural(kind)}" for kind, count in row.counts.items() if count)


def _show(manager: HarnessManager) -> None:
    from harness.report.tables import Table
    from harness.report.terminal import show

    header = ("name", "distribution", "version", "status", "offers")
    rows = tuple(
        (row.name, row.distribution or "", row.version or "", row.status, offers_text(row)) for row in manager.plugins()
    )
    reasons = tuple(f"{row.name}: {row.reason}" for row in manager.plugins() if row.reason is not None)
    show(Table(title="", header=header, rows=rows, labels=len(header), notes=reasons))
