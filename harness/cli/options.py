"""Options that several subcommands share."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from harness.errors import UsageError

if TYPE_CHECKING:
    from harness.api import Workbench
    from harness.catalog import Catalog
    from harness.manager import HarnessManager

F = TypeVar("F", bound=Callable[..., Any])


def setup_options(command: F) -> F:
    """``--registry``, ``--no-plugin`` and ``--strict-plugins``: where names come from."""
    registry = click.option(
        "--registry",
        "registry_files",
        multiple=True,
        type=click.Path(path_type=Path),
        metavar="FILE",
        help="Registry file with more presets and suites (repeatable).",
    )
    return registry(plugin_options(command))


def plugin_options(command: F) -> F:
    """``--no-plugin`` and ``--strict-plugins`` alone, for a command that reads no registry file."""
    for option in (
        click.option("--strict-plugins", is_flag=True, help="A broken plugin is an error, not a warning."),
        click.option("--no-plugin", multiple=True, metavar="NAME", help="Leave this plugin out (repeatable)."),
    ):
        command = option(command)
    return command


json_option = click.option("--json", "as_json", is_flag=True, help="Print JSON for machines.")


def open_workbench(registry_files: tuple[Path, ...], no_plugin: tuple[str, ...], strict_plugins: bool) -> Workbench:
    """Load plugins and registry; failures of plugins are shown once, on stderr."""
    from harness.api import Setup

    bench = Setup(registry_files=registry_files, block=no_plugin, strict=strict_plugins).open()
    warn_of_failures(bench.manager)
    return bench


def open_catalog(registry_files: tuple[Path, ...], no_plugin: tuple[str, ...], strict_plugins: bool) -> Catalog:
    """:func:`open_workbench` for commands that only look names up: planning stays unimported, and they are quick."""
    from harness.catalog import build_catalog
    from harness.manager import build_manager

    catalog = build_catalog(build_manager(block=no_plugin, strict=strict_plugins), registry_files=registry_files)
    warn_of_failures(catalog.manager)
    return catalog


def warn_of_failures(manager: HarnessManager) -> None:
    """One line on stderr for every plugin that failed."""
    for failure in manager.failures:
        click.echo(f"warning: {failure.describe()}", err=True)


def kind_named(word: str, kinds: Sequence[str]) -> str:
    """The kind that ``word`` means, in singular or plural. Raises :class:`UsageError` for any other word.

    >>> kind_named("summaries", ("model", "summary"))
    'summary'
    """
    from harness.naming import did_you_mean, plural

    words = {kind: kind for kind in kinds} | {plural(kind): kind for kind in kinds}
    if word.lower() not in words:
        raise UsageError(
            f"there is no kind {word!r}",
            hint=did_you_mean(word, map(plural, kinds)) or f"kinds are {', '.join(map(plural, kinds))}",
        )
    return words[word.lower()]


def print_json(value: object) -> None:
    """One JSON document on stdout."""
    click.echo(json.dumps(value, indent=2, ensure_ascii=False))
