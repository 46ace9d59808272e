"""``harness fetch``: bring pretrained weights into the local cache, for runs without a network."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import click

from harness.cli.options import json_option, open_catalog, print_json, setup_options
from harness.entries import ModelEntry
from harness.errors import HarnessError, WeightsError

if TYPE_CHECKING:
    from pathlib import Path

    from harness.catalog import Catalog, Resolved
    from harness.types import JSONValue


@dataclass(frozen=True, slots=True, kw_only=True)
class Fetched:
    """What came of one model. ``path``, ``size_bytes`` and ``sha256`` are those of the file, None without one."""

    model: str
    status: Literal["fetched", "fetched by its plugin", "cached", "embedded", "failed"]
    tag: str | None = None
    path: Path | None = None
    size_bytes: int | None = None
    sha256: str | None = None
    error: HarnessError | None = None

    def as_dict(self) -> dict[str, JSONValue]:
        """Plain values for ``--json``."""
        return {
            "model": self.model,
            "status": self.status,
            "tag": self.tag,
            "path": None if self.path is None else str(self.path),
            "size_bytes": self.size_bytes,
            "sha256": self.sha256,
            "error": None if self.error is None else self.error.message,
        }


@click.command()
@click.argument("names", nargs=-1, required=True, metavar="MODEL...")
@setup_options
@json_option
def fetch(
    names: tuple[str, ...],
    as_json: bool,
    registry_files: tuple[Path, ...],
    no_plugin: tuple[str, ...],
    strict_plugins: bool,
) -> int:
    """Download the pretrained weights of models, and say where they lie; what is there already is kept.

    MODEL is a name, a comma list, a glob or @file. Exit code 4 if some weights cannot be had.

    \b
      harness fetch vit_b16
      harness fetch 'deit_*' resnet50
    """
    from harness.grammar import split_names

    catalog = open_catalog(registry_files, no_plugin, strict_plugins)
    models = [catalog.resolve("model", found.text) for found in catalog.expand("model", split_names(names))]
    fetched = fetch_all(catalog, models)
    if as_json:
        print_json([one.as_dict() for one in fetched])
    else:
        _show(fetched)
    failures = [one.error for one in fetched if one.error is not None]
    for error in failures:
        click.echo(f"error: {error}", err=True)
    return failures[0].exit_code if failures else 0


def fetch_all(catalog: Catalog, models: list[Resolved]) -> list[Fetched]:
    """Fetch one after another. Once the hub cannot be reached, it is not asked again for those that are not cached."""
    from harness.hub import NotOnHubError, cached_file

    found: list[Fetched] = []
    reachable = True
    for resolved in models:
        try:
            tag = _hub_tag(resolved)
            if not reachable and tag is not None and cached_file(tag) is None:
                raise WeightsError(f"pretrained weights {tag}: not tried, the hub is out of reach")
            found.append(_fetch(catalog, resolved))
        except HarnessError as error:
            reachable = reachable and (isinstance(error, NotOnHubError) or not isinstance(error, WeightsError))
            found.append(Fetched(model=resolved.name, status="failed", tag=resolved.tag, error=error))
    return found


def _fetch(catalog: Catalog, resolved: Resolved) -> Fetched:
    from harness.hub import NotOnHubError, cached_file, pretrained_file
    from harness.weights import file_digest

    if resolved.tag is None:
        return Fetched(model=resolved.name, status="embedded")
    tag = _hub_tag(resolved)
    if tag is None:
        return _fetch_by_plugin(catalog, resolved)
    status: Literal["cached", "fetched"] = "fetched" if cached_file(tag) is None else "cached"
    try:
        path = pretrained_file(tag)
    except NotOnHubError:
        # A plugin may know another place than the hub: building the model goes the way that a run goes.
        return _fetch_by_plugin(catalog, resolved)
    return Fetched(
        model=resolved.name,
        status=status,
        tag=tag,
        path=path,
        size_bytes=path.stat().st_size,
        sha256=file_digest(path),
    )


def _hub_tag(resolved: Resolved) -> str | None:
    """The tag under which the hub has the weights; None where only the plugin knows where they are."""
    entry = resolved.entry
    return resolved.tag if isinstance(entry, ModelEntry) and entry.timm_weights else None


def _fetch_by_plugin(catalog: Catalog, resolved: Resolved) -> Fetched:
    from harness.protocols import Model
    from harness.weights import WeightsChoice

    model = catalog.load_target(resolved.entry)(**resolved.arguments, weights=WeightsChoice())
    sha256 = model.info.weights.sha256 if isinstance(model, Model) else None
    return Fetched(model=resolved.name, status="fetched by its plugin", tag=resolved.tag, sha256=sha256)


def _show(fetched: list[Fetched]) -> None:
    from harness.report.tables import Table
    from harness.report.terminal import show

    header = ("model", "status", "size", "sha256", "path")
    rows = tuple(
        (
            one.model,
            one.status,
            "" if one.size_bytes is None else f"{one.size_bytes / 1e6:.1f} MB",
            one.sha256 or "",
            "its weights come with its plugin" if one.status == "embedded" else str(one.path or ""),
        )
        for one in fetched
    )
    show(Table(title="", header=header, rows=rows, labels=len(header)))
