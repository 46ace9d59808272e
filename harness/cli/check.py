"""``harness check``: hold a component, or everything of a plugin, against the promises of its kind."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import click

from harness.cli.names import component_kind, kind_of, names_of
from harness.cli.options import json_option, open_catalog, print_json, setup_options
from harness.errors import DataError, MissingDependencyError, PluginError, RegistryError, UsageError
from harness.grammar import parse_selector
from harness.naming import did_you_mean
from harness.targets import missing_packages
from harness.types import KINDS

if TYPE_CHECKING:
    from pathlib import Path

    from harness.catalog import Catalog, CatalogRow
    from harness.resolved import Resolved
    from harness.testing import CheckOutcome
    from harness.types import JSONValue, Kind

_BROKEN = PluginError.exit_code


@dataclass(frozen=True, slots=True, kw_only=True)
class Checked:
    """One component and what came of its checks; ``left_out`` says why it was not checked at all."""

    kind: Kind
    name: str
    outcomes: Sequence[CheckOutcome] = ()
    left_out: str | None = None

    @property
    def broken(self) -> bool:
        """Whether some promise is broken."""
        return any(outcome.status == "failed" for outcome in self.outcomes)

    def as_dict(self) -> dict[str, JSONValue]:
        """Plain values for ``--json``."""
        return {
            "kind": self.kind,
            "name": self.name,
            "kept": None if self.left_out is not None else not self.broken,
            "left_out": self.left_out,
            "checks": [outcome.as_dict() for outcome in self.outcomes],
        }


@click.command()
@click.argument("name", required=False, metavar="[NAME[:key=value]]")
@click.option("--kind", metavar="KIND", help="Its kind, where several have the name.")
@click.option("--plugin", metavar="PLUGIN", help="Check everything that this plugin offers.")
@setup_options
@json_option
def check(
    name: str | None,
    kind: str | None,
    plugin: str | None,
    as_json: bool,
    registry_files: tuple[Path, ...],
    no_plugin: tuple[str, ...],
    strict_plugins: bool,
) -> int:
    """Check that a component keeps the promises of its kind. Models are built with random weights.

    Exit code 0 if every promise is kept, 3 if one is broken, 2 for a name that is not there.

    \b
      harness check patchdrop_random
      harness check folder:root=PHOTOS
      harness check --plugin my_plugin --json
    """
    if (name is None) == (plugin is None):
        raise UsageError("check takes one name, or --plugin", hint="for example harness check patchdrop_random")
    catalog = open_catalog(registry_files, no_plugin, strict_plugins)
    work = _component(catalog, kind, name) if name is not None else _plugin(catalog, kind, plugin or "")
    found = [checked if as_json else _shown(checked) for checked in work]
    if as_json:
        print_json([checked.as_dict() for checked in found])
    return _BROKEN if any(checked.broken for checked in found) else 0


def _component(catalog: Catalog, kind: str | None, text: str) -> Iterator[Checked]:
    name = parse_selector(text).qualified_name
    of = component_kind(kind or kind_of(catalog, name, KINDS))
    resolved = catalog.resolve(of, text)
    entry = resolved.entry
    if entry.extra is not None and (missing := missing_packages(entry.extra)):
        raise MissingDependencyError(
            f"{of} {name} cannot be checked: it needs {', '.join(missing)}, not installed", extra=entry.extra
        )
    if of == "dataset":
        _open(catalog, resolved)
    yield _checked(catalog, of, text)


def _open(catalog: Catalog, resolved: Resolved) -> None:
    """Raise :class:`DataError` for data that are not there, which is no fault of the component."""
    try:
        catalog.instantiate(resolved)
    except DataError:
        raise
    except Exception:  # noqa: BLE001 - what is wrong with the component itself is for its checks to say
        return


def _plugin(catalog: Catalog, kind: str | None, plugin: str) -> Iterator[Checked]:
    rows = [row for row in catalog.manager.plugins() if row.name == plugin]
    if not rows:
        hint = did_you_mean(plugin, names_of(catalog, "plugin")) or "harness plugins shows all"
        raise RegistryError(f"no plugin named {plugin!r}", hint=hint)
    if rows[0].status != "ok":
        raise PluginError(f"plugin {plugin} is {rows[0].status}: {rows[0].reason}")
    for of in KINDS if kind is None else (component_kind(kind),):
        for row in catalog.rows(of):
            if row.plugin == plugin and row.source is None:
                yield _checked_row(catalog, row)


def _checked_row(catalog: Catalog, row: CatalogRow) -> Checked:
    if row.requires:
        presets = [other.name for other in catalog.rows(row.kind) if other.use == row.name and other.source is not None]
        ways = f"{row.name}:{row.requires[0]}=..." + (f" or a preset, {', '.join(presets)}" if presets else "")
        reason = f"it takes {', '.join(f'{name}=' for name in row.requires)}; check {ways}"
        return Checked(kind=row.kind, name=row.name, left_out=reason)
    if row.extra_missing is not None:
        return Checked(kind=row.kind, name=row.name, left_out=f"needs extra [{row.extra_missing}]")
    return _checked(catalog, row.kind, row.name)


def _checked(catalog: Catalog, kind: Kind, text: str) -> Checked:
    """Run every check, with a line on a terminal that says which."""
    from harness.testing.kit import iter_checks, run_check, subject_named

    checks = list(iter_checks(subject_named(catalog, kind, text)))
    outcomes = []
    for place, one in enumerate(checks, start=1):
        _progress(f"{kind} {text}: {place} of {len(checks)}, {one.name}")
        outcomes.append(run_check(one))
    _progress("")
    return Checked(kind=kind, name=text, outcomes=outcomes)


def _progress(text: str) -> None:
    if sys.stderr.isatty():
        click.echo(f"\r\x1b[2K{text}", err=True, nl=False)


def _shown(checked: Checked) -> Checked:
    from harness.report.tables import Table
    from harness.report.terminal import show

    if checked.left_out is not None:
        click.echo(f"{checked.kind} {checked.name}: not checked: {checked.left_out}")
        return checked
    found = [outcome.status for outcome in checked.outcomes]
    counts = ", ".join(f"{found.count(status)} {status}" for status in ("passed", "failed", "skipped"))
    header = ("check", "status", "promise")
    rows = tuple((outcome.check, outcome.status, outcome.promise) for outcome in checked.outcomes)
    skipped = [outcome for outcome in checked.outcomes if outcome.status == "skipped"]
    notes = [
        f"skipped, {reason}: {', '.join(outcome.check for outcome in skipped if outcome.message == reason)}"
        for reason in dict.fromkeys(outcome.message for outcome in skipped)
    ]
    notes += [f"BROKEN {o.check}: {o.promise}\n  {o.message}" for o in checked.outcomes if o.status == "failed"]
    title = f"{checked.kind} {checked.name}: {counts}"
    show(Table(title=title, header=header, rows=rows, labels=len(header), notes=tuple(notes)))
    return checked
