"""``harness list``: every name there is, of one kind or of all."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import click

from harness.cli.names import SECTIONS, component_kind
from harness.cli.options import json_option, kind_named, open_catalog, print_json, setup_options
from harness.cli.plugins import offers_text, plugin_fields
from harness.errors import RegistryError
from harness.grammar import is_glob, match_glob
from harness.naming import did_you_mean, plural

if TYPE_CHECKING:
    from pathlib import Path

    from harness.catalog import Catalog, CatalogRow
    from harness.report.tables import Table
    from harness.types import JSONValue


@dataclass(frozen=True, slots=True, kw_only=True)
class Listed:
    """One line of the list: ``note`` is what stands between a person and using the name, empty if nothing does."""

    name: str
    aliases: tuple[str, ...]
    summary: str
    note: str
    fields: dict[str, JSONValue]


@click.command(name="list")
@click.argument("kind", required=False, metavar="[KIND]")
@click.argument("pattern", required=False, metavar="[FILTER]")
@setup_options
@json_option
def list_command(
    kind: str | None,
    pattern: str | None,
    as_json: bool,
    registry_files: tuple[Path, ...],
    no_plugin: tuple[str, ...],
    strict_plugins: bool,
) -> None:
    """List what can be named: models, perturbations, probes, datasets, summaries, suites or plugins.

    KIND is one of these words; without it everything is listed. FILTER is a glob, or a part of a name or alias.

    \b
      harness list models
      harness list models 'vit*'
      harness ls perturbations --json
    """
    sections = SECTIONS if kind is None else (kind_named(kind, SECTIONS),)
    catalog = open_catalog(registry_files, no_plugin, strict_plugins)
    found = {section: listing(catalog, section) for section in sections}
    if pattern is not None:
        found = matching(found, pattern)
    if as_json:
        print_json([line.fields for lines in found.values() for line in lines])
    else:
        _show(found)


def listing(catalog: Catalog, section: str) -> list[Listed]:
    """Every line of one section, by name."""
    if section == "plugin":
        return [
            Listed(
                name=row.name,
                aliases=(),
                summary=offers_text(row),
                note="" if row.reason is None else f"{row.status}: {row.reason}",
                fields={"kind": "plugin", **plugin_fields(row)},
            )
            for row in catalog.manager.plugins()
        ]
    if section == "suite":
        return [
            Listed(
                name=suite.name,
                aliases=(),
                summary=suite.summary,
                note="",
                fields={
                    "kind": "suite",
                    "name": suite.name,
                    "summary": suite.summary,
                    "source": str(suite.source),
                },
            )
            for suite in sorted(catalog.suites.values(), key=lambda suite: suite.name)
        ]
    return [_component(row) for row in catalog.rows(component_kind(section))]


def _component(row: CatalogRow) -> Listed:
    notes = []
    if row.problem is not None:
        notes.append(row.problem)
    if row.extra_missing is not None:
        notes.append(f"needs extra [{row.extra_missing}]")
    if row.requires:
        notes.append("takes " + ", ".join(f"{name}=" for name in row.requires))
    return Listed(
        name=row.name,
        aliases=row.aliases,
        summary=row.summary,
        note="; ".join(notes),
        fields={
            "kind": row.kind,
            "name": row.name,
            "aliases": list(row.aliases),
            "summary": row.summary,
            "use": row.use,
            "plugin": row.plugin,
            "tags": list(row.tags),
            "source": None if row.source is None else str(row.source),
            "requires": list(row.requires),
            "extra_missing": row.extra_missing,
            "problem": row.problem,
        },
    )


def matching(found: dict[str, list[Listed]], pattern: str) -> dict[str, list[Listed]]:
    """The lines whose name or alias matches. Raises :class:`RegistryError` where none does."""
    kept = {
        section: [line for line in lines if _matches(pattern, (line.name, *line.aliases))]
        for section, lines in found.items()
    }
    if not any(kept.values()):
        names = [name for lines in found.values() for line in lines for name in (line.name, *line.aliases)]
        kind = next(iter(found)) if len(found) == 1 else "name"
        raise RegistryError(
            f"no {kind} matches {pattern!r}",
            hint=did_you_mean(pattern, names) or "a filter is a glob such as 'vit*', or a part of a name",
        )
    return {section: lines for section, lines in kept.items() if lines}


def _matches(pattern: str, names: Iterable[str]) -> bool:
    if is_glob(pattern):
        return bool(match_glob(pattern, list(names)))
    return any(pattern.lower() in name for name in names)


def _show(found: dict[str, list[Listed]]) -> None:
    from harness.report.terminal import show

    for place, (section, lines) in enumerate(found.items()):
        if place:
            click.echo()
        title = f"{section if len(lines) == 1 else plural(section)}: {len(lines)}" if len(found) > 1 else ""
        show(_table(title, lines))


def _table(title: str, lines: Sequence[Listed]) -> Table:
    """Name and summary, and the other columns where there is something in them."""
    from harness.report.tables import Table

    columns = {
        "name": [line.name for line in lines],
        "aliases": [", ".join(line.aliases) for line in lines],
        "summary": [line.summary for line in lines],
        "note": [line.note for line in lines],
    }
    shown = {head: cells for head, cells in columns.items() if head in ("name", "summary") or any(cells)}
    rows = tuple(zip(*shown.values(), strict=True))
    return Table(title=title, header=tuple(shown), rows=rows, labels=len(shown))
