"""One registry file: presets, suites and defaults as frozen values, read with file, line and key path."""

from __future__ import annotations

import importlib.resources
import re
from dataclasses import dataclass, field, fields
from functools import partial
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

from harness.errors import HarnessError, RegistryError
from harness.grammar import is_glob, parse_selector
from harness.naming import did_you_mean, is_valid_name
from harness.strict_yaml import Item, Source, read_yaml
from harness.types import Capability, Kind, View

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path

    from harness.types import JSONValue

PACKAGED = "packaged"
"""The layer of the file that ships with the harness."""
USER = "user"
"""The layer of files named by the person who runs it."""

Precision: TypeAlias = Literal["fp32", "bf16", "fp16"]
_NUMBER = re.compile(r"[0-9.]+(e[0-9-]+)?\Z")
_PRECISIONS: tuple[Precision, ...] = ("fp32", "bf16", "fp16")
SECTIONS: dict[str, Kind] = {
    "models": "model",
    "perturbations": "perturbation",
    "probes": "probe",
    "datasets": "dataset",
}
_PRESET_KEYS = ("use", "params", "aliases", "summary", "override")
_MODEL_KEYS = (*_PRESET_KEYS, "view", "label_space", "capabilities", "published_top1", "published_view", "licence")
_SUITE_LISTS: dict[str, Kind] = {
    "models": "model",
    "datasets": "dataset",
    "perturbations": "perturbation",
    "support_perturbations": "perturbation",
    "probes": "probe",
}
_SUITE_KEYS = (*_SUITE_LISTS, "seeds", "view", "limit", "summary", "override")


@dataclass(frozen=True, slots=True, kw_only=True)
class Preset:
    """A name for an entry with parameters. For models, ``view``, ``label_space`` and ``capabilities`` refine the entry.

    ``published_top1``: percent of the 50,000 validation images of ImageNet-1k that its pretrained weights are published
    to get right, in ``published_view``, None for its own view. ``licence``: that of those weights, as SPDX writes it.
    ``params`` are as YAML typed them, not yet checked against the entry; ``param_sources`` says where each stands.
    ``layer`` is ``packaged``, ``user`` or the name of a plugin.
    """

    kind: Kind
    name: str
    use: str
    source: Source
    layer: str
    params: Mapping[str, JSONValue] = field(default_factory=dict)
    param_sources: Mapping[str, Source] = field(default_factory=dict)
    aliases: tuple[str, ...] = ()
    summary: str = ""
    override: bool = False
    view: View | None = None
    label_space: str | None = None
    capabilities: frozenset[Capability] | None = None
    published_top1: float | None = None
    published_view: View | None = None
    licence: str | None = None

    @property
    def path(self) -> str:
        """Its key path in the file, such as ``models.vit_b16``."""
        return f"{self.kind}s.{self.name}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Suite:
    """A named grid: selectors and globs per axis. An empty axis is the default's; ``limit`` is images, or a share."""

    name: str
    source: Source
    layer: str
    summary: str = ""
    models: tuple[str, ...] = ()
    datasets: tuple[str, ...] = ()
    perturbations: tuple[str, ...] = ()
    support_perturbations: tuple[str, ...] = ()
    probes: tuple[str, ...] = ()
    seeds: tuple[int, ...] | None = None
    view: str | None = None
    limit: int | float | None = None
    override: bool = False

    @property
    def path(self) -> str:
        """Its key path in the file."""
        return f"suites.{self.name}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Defaults:
    """What a run uses where nothing is said. ``view`` is ``model`` (each model's own) or a view's text."""

    model: str = "vit_mini"
    dataset: str = "shapes_novel"
    perturbation: str = "none"
    probe: str = "fewshot"
    view: str = "model"
    device: str = "auto"
    precision: Precision = "fp32"
    batch_size: int | Literal["auto"] = "auto"
    seeds: tuple[int, ...] = (0,)


@dataclass(frozen=True, slots=True, kw_only=True)
class Document:
    """What one file of a layer holds, before it meets the others."""

    layer: str
    presets: tuple[Preset, ...]
    suites: tuple[Suite, ...]
    defaults: Mapping[str, Any]


def packaged_document() -> Document:
    """The registry file that ships with the harness."""
    resource = importlib.resources.files("harness").joinpath("registry.yaml")
    return _parse_document(resource.read_text(encoding="utf-8"), "registry.yaml", PACKAGED)


def read_document(path: Path, layer: str) -> Document:
    """One registry file. Raises :class:`RegistryError` where it breaks the schema or cannot be read."""
    try:
        text = path.read_text(encoding="utf-8-sig")
    except OSError as error:
        raise RegistryError(f"{path}: cannot read this registry file: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise RegistryError(f"{path}: a registry file must be UTF-8 text") from error
    return _parse_document(text, str(path), layer)


def _parse_document(text: str, file: str, layer: str) -> Document:
    sections = read_yaml(text, file).fields((*SECTIONS, "suites", "defaults"))
    presets = [
        read_preset(item, kind, name, layer, source)
        for section, kind in SECTIONS.items()
        if section in sections
        for name, item, source in _named(sections[section])
    ]
    suites = (
        [read_suite(item, name, layer, src) for name, item, src in _named(sections["suites"])]
        if "suites" in sections
        else []
    )
    defaults: dict[str, Any] = {}
    if "defaults" in sections:
        if layer not in (PACKAGED, USER):
            raise sections["defaults"].error("a plugin's registry file cannot set defaults", "leave this section out")
        defaults = read_defaults(sections["defaults"])
    return Document(layer=layer, presets=tuple(presets), suites=tuple(suites), defaults=defaults)


def _named(section: Item) -> list[tuple[str, Item, Source]]:
    items = section.mapping()
    sources = section.key_sources()
    for name in items:
        if problem := name_problem(name):
            raise RegistryError(f"{sources[name]}: {section.path}: {name!r} is not a name", hint=problem)
    return [(name, item, sources[name]) for name, item in items.items()]


def name_problem(name: str) -> str | None:
    """What is wrong with a name, None if nothing."""
    if not is_valid_name(name):
        return "names are lower-case letters, digits, '_', '-' and '.', starting with a letter or digit"
    return "a name that reads as a number would be taken for a level" if _NUMBER.match(name) else None


def read_preset(item: Item, kind: Kind, name: str, layer: str, source: Source) -> Preset:
    """One preset from its mapping. Raises :class:`RegistryError` with file, line and key."""
    given = item.fields(_MODEL_KEYS if kind == "model" else _PRESET_KEYS)
    if "use" not in given:
        raise RegistryError(f"{source}: {item.path}: key 'use' is missing", hint="name the entry it is made from")
    params = given["params"].mapping() if "params" in given else {}
    return Preset(
        kind=kind,
        name=name,
        use=_entry_name(given["use"]),
        source=source,
        layer=layer,
        params={key: value.value() for key, value in params.items()},
        param_sources={key: value.source for key, value in params.items()},
        aliases=_aliases(given["aliases"]) if "aliases" in given else (),
        summary=given["summary"].text() if "summary" in given else "",
        override=given["override"].boolean() if "override" in given else False,
        view=_view(given["view"]) if "view" in given else None,
        label_space=given["label_space"].text("the name of a label space") if "label_space" in given else None,
        capabilities=_capabilities(given["capabilities"]) if "capabilities" in given else None,
        published_top1=_percent(given["published_top1"]) if "published_top1" in given else None,
        published_view=_view(given["published_view"]) if "published_view" in given else None,
        licence=given["licence"].text("a licence") if "licence" in given else None,
    )


def _percent(item: Item) -> float:
    value = item.scalar()
    if isinstance(value, bool) or not isinstance(value, int | float) or not 1 <= value <= 100:
        raise item.error(f"expected a percentage from 1 to 100, found {value!r}")
    return float(value)


def _entry_name(item: Item) -> str:
    text = item.text("the name of an entry")
    if not all(is_valid_name(part) for part in text.split(":", maxsplit=1)):
        raise item.error(
            f"expected the name of an entry, or plugin:entry, found {text!r}", "parameters go under params:"
        )
    return text


def _aliases(item: Item) -> tuple[str, ...]:
    aliases = []
    for element in item.elements():
        alias = element.text("a name")
        if problem := name_problem(alias):
            raise element.error(f"{alias!r} is not a name", problem)
        if alias in aliases:
            raise element.error(f"alias {alias!r} is given twice")
        aliases.append(alias)
    return tuple(aliases)


def _capabilities(item: Item) -> frozenset[Capability]:
    claimed = set()
    for element in item.elements():
        name = element.text("a capability")
        if name not in set(Capability):
            near = did_you_mean(name, Capability) or f"capabilities are: {', '.join(Capability)}"
            raise element.error(f"unknown capability {name!r}", near)
        claimed.add(Capability(name))
    return frozenset(claimed)


def _view(item: Item) -> View:
    try:
        if isinstance(item.node.value, str):
            return View.parse(item.text("a view"))
        given = item.fields([f.name for f in fields(View)])
        if "crop" not in given:
            raise item.error("key 'crop' is missing", "for example {resize: 256, crop: 224, interpolation: bilinear}")
        sizes = {key: given[key].integer(1) for key in ("crop", "resize") if key in given}
        names: dict[str, Any] = {key: given[key].text() for key in ("interpolation", "mode") if key in given}
        return View(crop=sizes["crop"], resize=sizes.get("resize"), **names)
    except RegistryError:
        raise
    except HarnessError as error:
        raise item.error(error.message, error.hint) from error


def _run_view(item: Item) -> str:
    """A view of a run: ``model``, or a view in any spelling."""
    if item.node.value == "model":
        return "model"
    view = _view(item)
    return str(item.node.value) if isinstance(item.node.value, str) else view.text


def read_suite(item: Item, name: str, layer: str, source: Source) -> Suite:
    """One suite from its mapping. Raises :class:`RegistryError` with file, line and key."""
    given = item.fields(_SUITE_KEYS)
    axes = {axis: _selectors(given[axis], kind) for axis, kind in _SUITE_LISTS.items() if axis in given}
    if not axes:
        raise RegistryError(f"{source}: {item.path}: a suite names at least one of {', '.join(_SUITE_LISTS)}")
    return Suite(
        name=name,
        source=source,
        layer=layer,
        summary=given["summary"].text() if "summary" in given else "",
        seeds=_seeds(given["seeds"]) if "seeds" in given else None,
        view=_run_view(given["view"]) if "view" in given else None,
        limit=_limit(given["limit"]) if "limit" in given else None,
        override=given["override"].boolean() if "override" in given else False,
        **axes,
    )


def _selectors(item: Item, kind: Kind) -> tuple[str, ...]:
    if not (elements := item.elements()):
        raise item.error("an empty list; leave the key out to take the default")
    return tuple(_selector(element, kind, globs=True) for element in elements)


def _selector(item: Item, kind: Kind, *, globs: bool) -> str:
    text = item.text(f"the name of a {kind}")
    if globs and is_glob(text):
        return text
    try:
        levels = parse_selector(text).levels
    except HarnessError as error:
        raise item.error(error.message, error.hint) from error
    if levels is not None and kind not in ("perturbation", "dataset"):
        raise item.error(f"{text!r}: only perturbations and datasets have levels")
    return text


def _limit(item: Item) -> int | float:
    """A number of images, or the share of them between 0 and 1."""
    value = item.scalar()
    if isinstance(value, float) and 0 < value < 1:
        return value
    return item.integer(1)


def _seeds(item: Item) -> tuple[int, ...]:
    seeds = tuple(element.integer(0) for element in item.elements())
    if not seeds or len(set(seeds)) != len(seeds):
        raise item.error("seeds must be one or more different integers")
    return seeds


def read_defaults(section: Item) -> dict[str, Any]:
    """The defaults that a file sets, by field of :class:`Defaults`. Raises :class:`RegistryError`."""
    readers: dict[str, Callable[[Item], Any]] = {
        kind: partial(_selector, kind=kind, globs=False) for kind in SECTIONS.values()
    }
    readers |= {
        "view": _run_view,
        "device": lambda item: item.text("a device, such as auto, cpu or cuda"),
        "precision": _precision,
        "batch_size": lambda item: "auto" if item.node.value == "auto" else item.integer(1),
        "seeds": _seeds,
    }
    return {key: readers[key](item) for key, item in section.fields(list(readers)).items()}


def _precision(item: Item) -> Precision:
    text = item.text("a precision")
    for precision in _PRECISIONS:
        if text == precision:
            return precision
    raise item.error(f"unknown precision {text!r}", f"choose one of {', '.join(_PRECISIONS)}")
