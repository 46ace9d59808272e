"""``harness registry``: work with registry files."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from harness.cli.options import json_option, plugin_options, print_json, warn_of_failures
from harness.errors import RegistryError

if TYPE_CHECKING:
    from harness.registry_validation import FileReport
    from harness.types import JSONValue


@click.group()
def registry() -> None:
    """Work with registry files: names with parameters (presets) and named grids (suites)."""


@registry.command()
@click.argument("files", nargs=-1, type=click.Path(path_type=Path), metavar="[FILE]...")
@plugin_options
@json_option
def validate(files: tuple[Path, ...], as_json: bool, no_plugin: tuple[str, ...], strict_plugins: bool) -> int:
    """Check the packaged registry file, those of plugins, and FILEs laid over them.

    Prints what each holds and every problem with file, line and key. Exit code 2 if there is one.

    \b
      harness registry validate
      harness registry validate my_models.yaml
    """
    from harness.manager import build_manager
    from harness.registry_validation import validate as validate_files

    manager = build_manager(block=no_plugin, strict=strict_plugins)
    warn_of_failures(manager)
    reports = validate_files(manager, files)
    if as_json:
        print_json([_fields(report) for report in reports])
    else:
        _show(reports)
    return RegistryError.exit_code if any(report.problems for report in reports) else 0


def _fields(report: FileReport) -> dict[str, JSONValue]:
    return {
        "file": report.file,
        "layer": report.layer,
        "presets": len(report.presets),
        "suites": len(report.suites),
        "problems": [{"message": problem.message, "hint": problem.hint} for problem in report.problems],
    }


def _show(reports: list[FileReport]) -> None:
    from harness.report.tables import Table
    from harness.report.terminal import show

    header = ("file", "layer", "presets", "suites", "problems")
    rows = tuple(
        (report.file, report.layer, *map(str, (len(report.presets), len(report.suites), len(report.problems))))
        for report in reports
    )
    problems = tuple(str(problem) for report in reports for problem in report.problems)
    show(Table(title="", header=header, rows=rows, labels=2, notes=problems))
