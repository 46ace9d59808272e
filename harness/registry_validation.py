"""Every problem of every registry file, where loading them stops at the first."""

from __future__ import annotations

import importlib.resources
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from harness.catalog import Catalog
from harness.errors import HarnessError, RegistryError
from harness.grammar import is_glob, parse_selector
from harness.preset_checks import check_preset, entry_claims, offers_for
from harness.registry import RegistryMerge
from harness.registry_file import (
    PACKAGED,
    SECTIONS,
    USER,
    Document,
    Preset,
    Suite,
    name_problem,
    read_defaults,
    read_preset,
    read_suite,
)
from harness.strict_yaml import Item, Source, read_yaml

if TYPE_CHECKING:
    from harness.manager import HarnessManager
    from harness.types import Kind

_AXES: Mapping[str, Kind] = {
    "models": "model",
    "datasets": "dataset",
    "perturbations": "perturbation",
    "support_perturbations": "perturbation",
    "probes": "probe",
}


@dataclass(slots=True, kw_only=True)
class FileReport:
    """One file, what could be read of it, and all that is wrong. ``layer`` is ``packaged``, ``user`` or a plugin."""

    file: str
    layer: str
    presets: list[Preset] = field(default_factory=list)
    suites: list[Suite] = field(default_factory=list)
    defaults: dict[str, Any] = field(default_factory=dict)
    default_sources: dict[str, Source] = field(default_factory=dict)
    problems: list[HarnessError] = field(default_factory=list)

    @contextmanager
    def collecting(self, where: str = "") -> Iterator[None]:
        """Note what is raised inside, with ``where`` before it, and go on after it."""
        try:
            yield
        except HarnessError as error:
            noted = type(error)(f"{where}: {error.message}", hint=error.hint) if where else error
            self.problems.append(noted)


def validate(manager: HarnessManager, files: Sequence[Path] = ()) -> list[FileReport]:
    """The packaged file, those of plugins and ``files``, in the order in which they are laid over each other.

    Beyond what loading checks, every preset, suite and default is looked up, so that a suite which names a model that
    is not there is found before it is run.
    """
    reports = [_read(_packaged_text, "registry.yaml", PACKAGED)]
    reports += [_read(_text_of(path), str(path), plugin) for plugin, path in manager.registry_files()]
    reports += [_read(_text_of(path), str(path), USER) for path in files]
    merged = RegistryMerge(entry_claims(manager), None)
    for report in reports:
        _merge(merged, report, manager)
    catalog = Catalog(manager, merged.registry())
    for report in reports:
        _look_up(catalog, report)
        report.problems.sort(key=lambda problem: _line(problem, report.file))
    return reports


def _line(problem: HarnessError, file: str) -> int:
    found = re.match(r":(\d+):", problem.message.removeprefix(file))
    return int(found[1]) if found else 0


def _packaged_text() -> str:
    return importlib.resources.files("harness").joinpath("registry.yaml").read_text(encoding="utf-8")


def _text_of(path: Path) -> Callable[[], str]:
    def read() -> str:
        try:
            return path.read_text(encoding="utf-8-sig")
        except OSError as error:
            raise RegistryError(f"{path}: cannot read this registry file: {error.strerror}") from error
        except UnicodeDecodeError as error:
            raise RegistryError(f"{path}: a registry file must be UTF-8 text") from error

    return read


def _read(text: Callable[[], str], file: str, layer: str) -> FileReport:
    report = FileReport(file=file, layer=layer)
    with report.collecting():
        root = read_yaml(text(), file)
        with report.collecting():
            root.fields((*SECTIONS, "suites", "defaults"))
        for section, item in root.mapping().items():
            with report.collecting():
                _read_section(report, section, item)
    return report


def _read_section(report: FileReport, section: str, item: Item) -> None:
    if section == "defaults":
        if report.layer not in (PACKAGED, USER):
            raise item.error("a plugin's registry file cannot set defaults", "leave this section out")
        report.defaults = read_defaults(item)
        report.default_sources = item.key_sources()
    elif section == "suites" or section in SECTIONS:
        named = item.mapping()
        sources = item.key_sources()
        for name, value in named.items():
            with report.collecting():
                _read_named(report, section, name, value, sources[name])


def _read_named(report: FileReport, section: str, name: str, item: Item, source: Source) -> None:
    if problem := name_problem(name):
        raise RegistryError(f"{source}: {section}: {name!r} is not a name", hint=problem)
    if section == "suites":
        report.suites.append(read_suite(item, name, report.layer, source))
    else:
        report.presets.append(read_preset(item, SECTIONS[section], name, report.layer, source))


def _merge(merged: RegistryMerge, report: FileReport, manager: HarnessManager) -> None:
    """Lay the file over the earlier ones, one name at a time; what is refused stays out."""
    accepted: list[Preset] = []
    for preset in report.presets:
        before = len(report.problems)
        with report.collecting():
            merged.add([Document(layer=report.layer, presets=(preset,), suites=(), defaults={})])
        for name, value in preset.params.items():
            with report.collecting():
                check_preset(replace(preset, params={name: value}), offers_for(manager, preset))
        if len(report.problems) == before:
            accepted.append(preset)
    report.presets = accepted
    for suite in report.suites:
        with report.collecting():
            merged.add([Document(layer=report.layer, presets=(), suites=(suite,), defaults={})])
    merged.add([Document(layer=report.layer, presets=(), suites=(), defaults=report.defaults)])


def _look_up(catalog: Catalog, report: FileReport) -> None:
    for preset in report.presets:
        rows = [row for row in catalog.rows(preset.kind) if row.source == preset.source]
        if rows and not rows[0].requires:
            with report.collecting():
                catalog.resolve(preset.kind, rows[0].name)
    for suite in report.suites:
        for axis, kind in _AXES.items():
            for text in getattr(suite, axis):
                with report.collecting(f"{suite.source}: {suite.path}.{axis}"):
                    _look_up_selector(catalog, kind, text)
    for key, source in report.default_sources.items():
        kind_of_default = next((kind for kind in SECTIONS.values() if kind == key), None)
        if kind_of_default is not None:
            with report.collecting(f"{source}: defaults.{key}"):
                catalog.resolve(kind_of_default, report.defaults[key])


def _look_up_selector(catalog: Catalog, kind: Kind, text: str) -> None:
    found = catalog.expand(kind, [text])
    if is_glob(text):
        return
    for item in found:
        selector = parse_selector(item.text)
        # A suite may leave it to the person who runs it where the images lie: --data says so.
        placed = kind != "dataset" or "root" in selector.params or not catalog.takes(kind, selector, "root")
        catalog.resolve(kind, selector, overrides={} if placed else {"root": "DIR"})
