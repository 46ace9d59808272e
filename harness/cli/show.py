"""``harness show``: one name in full, from its descriptor and its preset; a model is built, too, without weights."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import click

from harness.cli.names import SECTIONS, component_kind, kind_of, names_of
from harness.cli.options import json_option, kind_named, open_catalog, print_json, setup_options
from harness.cli.plugins import plugin_fields
from harness.cli.sheets import SheetOptions, plan_sheet, sheet_options
from harness.errors import RegistryError, UsageError
from harness.grammar import parse_selector
from harness.naming import did_you_mean
from harness.types import KINDS

if TYPE_CHECKING:
    from pathlib import Path

    from harness.catalog import Catalog
    from harness.grammar import Selector
    from harness.registry import Suite
    from harness.report.tables import Table
    from harness.types import JSONValue

_SUITE_AXES = ("models", "datasets", "perturbations", "support_perturbations", "probes")


@click.command()
@click.argument("words", nargs=-1, required=True, metavar="[KIND] NAME")
@sheet_options
@setup_options
@json_option
def show(
    words: tuple[str, ...],
    as_json: bool,
    registry_files: tuple[Path, ...],
    no_plugin: tuple[str, ...],
    strict_plugins: bool,
    **sheet_given: Any,
) -> None:
    """Describe one name: where it comes from, its parameters with defaults and ranges, its levels, its facts.

    KIND (model, perturbation, probe, dataset, summary, suite, plugin) is needed only for a name that several have.

    Of a model the network is built without its weights, which takes some seconds: parameters, MACs, input, tokens,
    capabilities, weights. NAME may have parameters, as in vit_b16:input=384.

    Of a dataset a contact sheet is drawn, too: some images of every split, with the outlines of their masks. Of a
    perturbation of images it is drawn where images are named, with --image, or with --dataset and --index: each of
    them clean, with the map the perturbation goes by if it has one, and at every level. Of a probe that has something
    to show, what it finds in --model is drawn, in these images or, for one that measures the model itself, without.
    For a sheet NAME may have parameters and levels, as in NAME:key=value@0.5. With --json it is drawn only where
    --sheet names its file.

    \b
      harness show vit_b16
      harness show model timm:resnet50.a1_in1k --json
      harness show suite occlusion-quick --json
      harness show folder --data PHOTOS --sheet photos.png
      harness show perturbation patchdrop_random:grid=7x7 --image photo.jpg
      harness show patchdrop_random@0.25,0.5 --dataset shapes --index 3,7,12
      harness show attention_rollout -m vit_mini -d shapes --index 0-5
      harness show correlation -m deit_s16 --image photo.jpg -p none -p patchdrop_random@0.25,0.5,0.75
    """
    kind, selector = _kind_and_selector(words)
    catalog = open_catalog(registry_files, no_plugin, strict_plugins)
    found = describe(catalog, kind, selector)
    draw_sheet = plan_sheet(catalog, selector, found, SheetOptions(**sheet_given), as_json=as_json)
    if as_json:
        print_json(found if draw_sheet is None else {**found, "sheet": draw_sheet()})
        return
    _print(found)
    if draw_sheet is not None:
        click.echo(f"\ncontact sheet: {draw_sheet()}")


def _kind_and_selector(words: tuple[str, ...]) -> tuple[str | None, Selector]:
    if len(words) > 2:
        raise UsageError(f"show takes one name, with its kind before it if need be, not {' '.join(words)!r}")
    selector = parse_selector(words[-1])
    return (kind_named(words[0], SECTIONS) if len(words) == 2 else None), selector


def describe(catalog: Catalog, kind: str | None, selector: Selector) -> dict[str, JSONValue]:
    """Everything known of a name as plain JSON values; ``kind`` may be None where only one kind has the name.

    Raises :class:`UsageError` for a name of several kinds, :class:`RegistryError` for an unknown one, and
    :class:`PluginError` for one whose plugin failed or that several plugins use.
    """
    name = selector.qualified_name
    kind = kind or kind_of(catalog, name)
    if kind == "suite":
        return _suite(catalog.suite(name))
    if kind == "plugin":
        return _plugin(catalog, name)
    described = catalog.describe(component_kind(kind), name)
    return described if kind != "model" else {**described, **_network(catalog, selector, described)}


def _suite(suite: Suite) -> dict[str, JSONValue]:
    axes: dict[str, JSONValue] = {axis: list(getattr(suite, axis)) for axis in _SUITE_AXES}
    return {
        "kind": "suite",
        "name": suite.name,
        "summary": suite.summary,
        "source": str(suite.source),
        **axes,
        "seeds": None if suite.seeds is None else list(suite.seeds),
        "view": suite.view,
        "limit": suite.limit,
    }


def _plugin(catalog: Catalog, name: str) -> dict[str, JSONValue]:
    for row in catalog.manager.plugins():
        if row.name == name:
            offered = {
                kind: [offer.entry.name for offer in catalog.manager.entries(kind) if offer.plugin == name]
                for kind in KINDS
            }
            entries: dict[str, JSONValue] = {kind: list(names) for kind, names in offered.items() if names}
            return {"kind": "plugin", **plugin_fields(row), "entries": entries}
    raise RegistryError(
        f"no plugin named {name!r}", hint=did_you_mean(name, names_of(catalog, "plugin")) or "harness plugins shows all"
    )


def _network(catalog: Catalog, selector: Selector, described: Mapping[str, Any]) -> dict[str, JSONValue]:
    """What the model itself says; nothing where a parameter is yet to be given, or something must be installed."""
    from harness.cli.model_card import network_card, weights_card

    lacking = [row["name"] for row in described["params"] if row["required"] and "preset" not in row]
    if set(lacking) - set(selector.params) or described["extra_missing"]:
        return {"weights": None}
    resolved = catalog.resolve("model", selector)
    values = resolved.ref.params
    params = [
        {**row, "given": values[row["name"]]} if row["name"] in selector.params else row for row in described["params"]
    ]
    return {"params": params, **network_card(resolved), "weights": weights_card(resolved)}


# --- for people ------------------------------------------------------------------------------------------------


def _print(found: Mapping[str, Any]) -> None:
    from harness.report.terminal import show as show_table

    show_table(_properties(found))
    if found.get("params"):
        click.echo()
        show_table(_parameters(found))


def _properties(found: Mapping[str, Any]) -> Table:
    from harness.report.tables import Table

    lines = {"summary": found.get("summary"), **_PROPERTIES.get(found["kind"], _component_lines)(found)}
    rows = tuple((label, text) for label, text in lines.items() if text)
    return Table(title="", header=(found["kind"], found["name"]), rows=rows, labels=2)


def _suite_lines(found: Mapping[str, Any]) -> dict[str, str]:
    lines = {axis.replace("_", " "): ", ".join(found[axis]) for axis in _SUITE_AXES}
    others = {name: _text(found[name]) for name in ("seeds", "view", "limit", "source")}
    return {**lines, **others, "run it": f"harness run --suite {found['name']}"}


def _plugin_lines(found: Mapping[str, Any]) -> dict[str, str]:
    lines = {name: _text(found[name]) for name in ("distribution", "version", "status", "reason")}
    return {**lines, **{kind: ", ".join(names) for kind, names in found["entries"].items()}}


def _component_lines(found: Mapping[str, Any]) -> dict[str, str]:
    distribution = " ".join(filter(None, (found["distribution"], found["distribution_version"])))
    lines = {
        "aliases": ", ".join(found["aliases"]),
        "uses": "" if found["use"] == found["name"] else f"entry {found['use']}",
        "plugin": found["plugin"] + (f" ({distribution})" if distribution else ""),
        "code": f"{found['target']}, version {found['version']}",
        "defined at": found["source"] or "",
        "tags": ", ".join(found["tags"]),
        "extra": _extra(found),
        "levels": _levels(found["levels"]),
    }
    if weights := found.get("weights"):
        lines["weights"] = weights["tag"] or weights["identity"]
        lines["identity"] = weights["identity"]
        lines["SHA-256"] = weights["sha256"] or ""
        if weights["tag"] is not None:
            way_on = weights.get("problem") or f"harness fetch {found['name']} downloads them"
            lines["in the local cache"] = weights["cached"] or f"no; {way_on}"
    elif "blocks" in found:
        lines["weights"] = "none were published; --weights PATH or --weights random"
    if "blocks" in found:
        from harness.cli.model_card import network_lines

        return lines | network_lines(found)
    facts = {name.replace("_", " "): _text(value) for name, value in found["facts"].items() if name not in _ROLES}
    return lines | facts


_ROLES = ("tag_param", "url_param", "sha256_param", "names_tags", "facts_vary")
"""Facts that say which parameter is what, for programs."""


_PROPERTIES = {"suite": _suite_lines, "plugin": _plugin_lines}


def _extra(found: Mapping[str, Any]) -> str:
    if found["extra"] is None:
        return ""
    missing = "not installed: pip install 'vit-harness[" + found["extra"] + "]'"
    return f"[{found['extra']}], {missing if found['extra_missing'] else 'installed'}"


def _levels(level: Mapping[str, Any] | None) -> str:
    if level is None:
        return ""
    sweep = ", ".join(f"{value:g}" for value in level["values"])
    unit = f" ({level['unit']})" if level["unit"] else ""
    text = f"{level['name']}{unit} from {level['low']:g} to {level['high']:g}; @all is {sweep}"
    if level["identity"] is not None:
        text += f"; {level['identity']:g} changes nothing"
    return text


def _parameters(found: Mapping[str, Any]) -> Table:
    from harness.report.tables import Table

    columns: dict[str, list[str]] = {name: [] for name in ("parameter", "type", "value", "range", "unit", "meaning")}
    for row in found["params"]:
        columns["parameter"].append(row["name"])
        columns["type"].append(row["type"])
        columns["value"].append(_value(row))
        columns["range"].append(row["range"])
        columns["unit"].append(row["unit"])
        columns["meaning"].append(row["help"])
    shown = {head: cells for head, cells in columns.items() if any(cells)}
    return Table(title="", header=tuple(shown), rows=tuple(zip(*shown.values(), strict=True)), labels=len(shown))


def _value(row: Mapping[str, Any]) -> str:
    """What a parameter is as given, by preset or by default, as it would be typed: grids as 14x14, lists as 1+5."""
    value = row.get("given", row.get("preset", row["default"]))
    if value is None:
        return "required" if row["required"] else "none"
    if isinstance(value, list):
        return ("+" if row["type"].startswith("list") else "x").join(map(_text, value))
    return _text(value)


def _text(value: object) -> str:
    if value is None:
        return ""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:g}"
    return ", ".join(map(str, value)) if isinstance(value, list) else str(value)
