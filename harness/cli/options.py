"""Options that several subcommands share."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

if TYPE_CHECKING:
    from harness.api import Workbench

F = TypeVar("F", bound=Callable[..., Any])


def setup_options(command: F) -> F:
    """``--registry``, ``--no-plugin`` and ``--strict-plugins``: where names come from."""
    for option in (
        click.option("--strict-plugins", is_flag=True, help="A broken plugin is an error, not a warning."),
        click.option("--no-plugin", multiple=True, metavar="NAME", help="Leave this plugin out (repeatable)."),
        click.option(
            "--registry",
            "registry_files",
            multiple=True,
            type=click.Path(path_type=Path),
            metavar="FILE",
            help="Registry file with more presets and suites (repeatable).",
        ),
    ):
        command = option(command)
    return command


json_option = click.option("--json", "as_json", is_flag=True, help="Print JSON for machines.")


def open_workbench(registry_files: tuple[Path, ...], no_plugin: tuple[str, ...], strict_plugins: bool) -> Workbench:
    """Load plugins and registry; failures of plugins are shown once, on stderr."""
    from harness.api import Setup

    bench = Setup(registry_files=registry_files, block=no_plugin, strict=strict_plugins).open()
    for failure in bench.manager.failures:
        click.echo(f"warning: {failure.describe()}", err=True)
    return bench


def print_json(value: object) -> None:
    """One JSON document on stdout."""
    click.echo(json.dumps(value, indent=2, ensure_ascii=False))
