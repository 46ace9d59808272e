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

    from harness.catalog import Catalog
    from harness.resolved import Resolved
    from harness.types import JSONValue


@dataclass(frozen=True, slots=True, kw_only=True)
class Fetched:
    """What came of one model. ``path``, ``size_bytes`` and ``sha256`` are those of the file, None without one.

    ``digest``: what the bytes are held to. ``hub``: what the hub said when they were fetched; the others are those of
    :data:`harness.url_weights.DigestSource`.
    """

    model: str
    status: Literal["fetched", "fetched by its plugin", "cached", "embedded", "failed"]
    tag: str | None = None
    path: Path | None = None
    size_bytes: int | None = None
    sha256: str | None = None
    digest: Literal["hub", "pinned", "published", "recorded"] | None = None
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
            "digest": self.digest,
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
    from harness.built_facts import with_exact_facts
    from harness.grammar import split_names

    catalog = open_catalog(registry_files, no_plugin, strict_plugins)
    models = [
        with_exact_facts(catalog.resolve("model", found.text)) for found in catalog.expand("model", split_names(names))
    ]
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
    """Fetch one after another. A server that cannot be reached is not asked again for what is not cached."""
    from harness.transfer import UnavailableError

    found: list[Fetched] = []
    unreachable: set[str] = set()
    for resolved in models:
        server = _server(resolved)
        try:
            if server in unreachable and not _is_cached(resolved):
                raise WeightsError(f"pretrained weights {resolved.tag}: not tried, {server} is out of reach")
            found.append(_fetch(catalog, resolved))
        except HarnessError as error:
            if server is not None and isinstance(error, UnavailableError):
                unreachable.add(server)
            found.append(Fetched(model=resolved.name, status="failed", tag=resolved.tag, error=error))
    return found


def _fetch(catalog: Catalog, resolved: Resolved) -> Fetched:
    if resolved.tag is None:
        return _without_file(resolved)
    if resolved.weights_url is not None:
        return _fetch_url(resolved)
    if _hub_tag(resolved) is not None:
        return _fetch_from_hub(catalog, resolved)
    return _fetch_by_plugin(catalog, resolved)


def _without_file(resolved: Resolved) -> Fetched:
    if resolved.embedded is None:
        raise WeightsError(
            f"model {resolved.name} has no pretrained weights: none were published",
            hint="give a checkpoint file, --weights PATH; or run untrained, --weights random",
        )
    return Fetched(model=resolved.name, status="embedded")


def _fetch_url(resolved: Resolved) -> Fetched:
    from harness.url_weights import url_weights

    status: Literal["cached", "fetched"] = "cached" if _is_cached(resolved) else "fetched"
    weights = url_weights(str(resolved.weights_url), sha256=resolved.weights_sha256)
    return Fetched(
        model=resolved.name,
        status=status,
        tag=resolved.tag,
        path=weights.path,
        size_bytes=weights.size_bytes,
        sha256=weights.sha256,
        digest=weights.digest_source,
    )


def _fetch_from_hub(catalog: Catalog, resolved: Resolved) -> Fetched:
    from harness.hub import NotOnHubError, pretrained_file
    from harness.weights import file_digest

    status: Literal["cached", "fetched"] = "cached" if _is_cached(resolved) else "fetched"
    try:
        path = pretrained_file(str(resolved.tag))
    except NotOnHubError:
        # A plugin may know another place than the hub: building the model goes the way that a run goes.
        return _fetch_by_plugin(catalog, resolved)
    return Fetched(
        model=resolved.name,
        status=status,
        tag=resolved.tag,
        path=path,
        size_bytes=path.stat().st_size,
        sha256=file_digest(path),
        digest="hub",
    )


def _is_cached(resolved: Resolved) -> bool:
    from harness.hub import cached_file
    from harness.url_weights import cached_url_file

    if resolved.weights_url is not None:
        return cached_url_file(resolved.weights_url) is not None
    tag = _hub_tag(resolved)
    return tag is not None and cached_file(tag) is not None


def _server(resolved: Resolved) -> str | None:
    """Whom the weights are fetched from; None where only the plugin knows, or nobody is asked."""
    from harness.transfer import host_of

    if resolved.weights_url is not None:
        return host_of(resolved.weights_url)
    return None if _hub_tag(resolved) is None else "the hub"


def _hub_tag(resolved: Resolved) -> str | None:
    """The tag under which the hub has the weights; None where they lie elsewhere."""
    entry = resolved.entry
    on_hub = isinstance(entry, ModelEntry) and entry.timm_weights and resolved.weights_url is None
    return resolved.tag if on_hub else None


def _fetch_by_plugin(catalog: Catalog, resolved: Resolved) -> Fetched:
    from harness.protocols import Model
    from harness.weights import WeightsChoice

    model = catalog.load_target(resolved.entry)(**resolved.arguments, weights=WeightsChoice())
    sha256 = model.info.weights.sha256 if isinstance(model, Model) else None
    return Fetched(model=resolved.name, status="fetched by its plugin", tag=resolved.tag, sha256=sha256)


_HELD_TO = {
    "hub": "as the hub has it",
    "pinned": "pinned",
    "published": "published in the name",
    "recorded": "recorded at the first download",
}


def _show(fetched: list[Fetched]) -> None:
    from harness.report.tables import Table
    from harness.report.terminal import show

    header = ("model", "status", "size", "sha256", "digest", "path")
    rows = tuple(
        (
            one.model,
            one.status,
            "" if one.size_bytes is None else f"{one.size_bytes / 1e6:.1f} MB",
            one.sha256 or "",
            "" if one.digest is None else _HELD_TO[one.digest],
            "its weights come with its plugin" if one.status == "embedded" else str(one.path or ""),
        )
        for one in fetched
    )
    show(Table(title="", header=header, rows=rows, labels=len(header)))
