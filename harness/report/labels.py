"""What tables and pictures call the components of a record, so that no two of them read the same."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from harness.naming import parameter_text
from harness.types import ResultRecord

_SHORT = 18
KEY_DIGITS = 8
"""Digits of a digest that are shown."""


class Labels:
    """Names of components as a table shows them: where records of one name differ, with what they differ in."""

    def __init__(self, records: Iterable[ResultRecord]) -> None:
        self._variants: dict[tuple[str, str], dict[str, Mapping[str, Any]]] = {}
        for record in records:
            for role in record.cell["components"]:
                place, variant = _place(record.cell, role)
                self._variants.setdefault(place, {})[variant] = record.cell["components"][role]["params"]

    def component(self, cell: Mapping[str, Any], role: str) -> str:
        """The name, then the parameters that other records of the name have otherwise."""
        place, variant = _place(cell, role)
        variants = self._variants.get(place, {})
        if len(variants) < 2:
            return place[1]
        names = dict.fromkeys(name for params in variants.values() for name in params)
        differing = [name for name in names if len({repr(params.get(name)) for params in variants.values()}) > 1]
        texts = {
            key: ":".join([place[1], *(parameter_text(name, params.get(name)) for name in differing)])
            for key, params in variants.items()
        }
        alike = [key for key, text in texts.items() if text == texts[variant]]
        if len(alike) == 1:
            return texts[variant]
        # Equal parameters and yet not the same: other weights, an injected model, a file, a version.
        short = len({key[:_SHORT] for key in alike}) == len(alike)
        return f"{texts[variant]} [{variant[:_SHORT] if short else variant}]"

    def model(self, record: ResultRecord) -> str:
        """The model, marked where its weights are untrained."""
        return f"{self.component(record.cell, 'model')}{' (untrained)' if record.untrained else ''}"

    def perturbation(self, cell: Mapping[str, Any]) -> str:
        """The perturbation with its level, and its seed unless that is 0."""
        seed = cell["seeds"]["perturb"]
        return self.component(cell, "perturbation") + _at(cell["level"]) + (f" seed {seed}" if seed else "")

    def support(self, cell: Mapping[str, Any]) -> str:
        """The support perturbation with its level; empty for a probe that does not learn."""
        return "" if cell["support"] is None else self.component(cell, "support") + _at(cell["support"]["level"])

    def condition(self, cell: Mapping[str, Any]) -> str:
        """The perturbation, with that of the support images where these are perturbed."""
        text = self.perturbation(cell)
        perturbed = cell["support"] is not None and cell["support"]["perturbation"] != "none"
        return f"{text} (support under {self.support(cell)})" if perturbed else text


def particulars(cell: Mapping[str, Any]) -> tuple[str, ...]:
    """What may tell apart two cells whose components have the same labels, always in the same order."""
    seeds, support = cell["seeds"], cell["support"] or {}
    return (
        f"view={cell['view']}",
        f"probe seed {seeds.get('probe')}",
        f"support seed {seeds.get('support_perturb')}",
        f"support split {support.get('split')}",
        f"data {str(cell.get('fingerprint'))[:KEY_DIGITS]}",
    )


def data_name(cell: Mapping[str, Any], labels: Labels) -> str:
    """Dataset and split of a cell."""
    return f"{labels.component(cell, 'dataset')}/{cell['split']}"


def _place(cell: Mapping[str, Any], role: str) -> tuple[tuple[str, str], str]:
    """Role and name of a component, and what tells it apart from others of the name."""
    component = cell["components"][role]
    if role == "support":
        return ("perturbation", str(cell["support"]["perturbation"])), str(component["fingerprint"])
    if role == "model":
        return (role, str(cell[role])), f"{cell['weights']} {component['fingerprint']}"
    return (role, str(cell[role])), str(component["fingerprint"])


def support_name(cell: Mapping[str, Any]) -> str:
    """Perturbation of the support images with its level; empty where a probe has no support."""
    return "" if cell["support"] is None else f"{cell['support']['perturbation']}{_at(cell['support']['level'])}"


def _at(level: float | None) -> str:
    return "" if level is None else f"@{level:g}"


def params_text(cell: Mapping[str, Any], role: str) -> str:
    """Every parameter of a component, as ``key=value:key=value``."""
    params: Mapping[str, Any] = cell["components"][role]["params"]
    return ":".join(parameter_text(name, value) for name, value in sorted(params.items()))
