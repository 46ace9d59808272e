"""``harness doctor``: what is installed, what works, and what to do about the rest."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from harness.cli.options import json_option, plugin_options, print_json

if TYPE_CHECKING:
    from harness.diagnosis import Finding

_PROBLEM = 1


@click.command()
@click.option("--offline", is_flag=True, help="Leave the hub alone.")
@plugin_options
@json_option
def doctor(offline: bool, as_json: bool, no_plugin: tuple[str, ...], strict_plugins: bool) -> int:
    """Report versions, devices, plugins, cache, hub and optional packages, and what to do about what does not work.

    Exit code 0 if all is well, 1 if a problem was found; a note is no problem.

    \b
      harness doctor
      harness doctor --offline --json
    """
    from harness.catalog import build_catalog
    from harness.diagnosis import diagnose
    from harness.manager import build_manager

    manager = build_catalog(build_manager(block=no_plugin, strict=strict_plugins)).manager
    findings = diagnose(manager, offline=offline)
    if as_json:
        print_json([finding.as_dict() for finding in findings])
    else:
        _show(findings)
    return _PROBLEM if any(finding.status == "problem" for finding in findings) else 0


def _show(findings: list[Finding]) -> None:
    from harness.report.tables import Table
    from harness.report.terminal import show

    header = ("area", "name", "status", "found")
    rows = tuple((one.area, one.name, one.status, one.found) for one in findings)
    advice = [f"{one.status}: {one.name}: {one.advice}" for one in findings if one.status != "ok" and one.advice]
    problems = sum(one.status == "problem" for one in findings)
    verdict = "no problem found" if not problems else f"{problems} problem{'s' if problems > 1 else ''} found"
    show(Table(title="", header=header, rows=rows, labels=len(header), notes=("", *advice, verdict)))
