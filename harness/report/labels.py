"""What tables and pictures call the components of a record, so that no two of them read the same."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Mapping
from fractions import Fraction
from typing import Any

from harness.naming import parameter_text
from harness.types import Measurement, ResultRecord

_SHORT = 18
KEY_DIGITS = 8
"""Digits of a digest that are shown."""


class Labels:
    """Names of components as a table shows them: where records of one name differ, with what they differ in."""

    def __init__(self, records: Iterable[ResultRecord]) -> None:
        self._variants: dict[tuple[str, str], dict[str, Mapping[str, Any]]] = {}
        self._said: dict[tuple[str, str], dict[str, str]] = {}
        for record in records:
            for role, component in record.cell["components"].items():
                place, variant = _place(record.cell, role)
                self._variants.setdefault(place, {})[variant] = component["params"]
                if (text := _said(place, component)) is not None:
                    self._said.setdefault(place, {})[variant] = text

    def component(self, cell: Mapping[str, Any], role: str) -> str:
        """The name, then what makes it another than the name alone says.

        Of models, perturbations and datasets these are the parameters that are not their defaults, or not those of the
        preset that is named; of others those that other records of the name have otherwise; see :func:`_texts`.
        """
        place, variant = _place(cell, role)
        variants, said = self._variants.get(place, {}), self._said.get(place, {})
        if said and len({*said.values()}) == len(variants):
            return said[variant]
        if len(variants) < 2:
            return place[1]
        texts = _texts(place[1], variants)
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


_SAYING = ("model", "perturbation", "dataset")
"""Roles whose parameters are part of what was measured, and are said whether or not others differ in them."""


def _said(place: tuple[str, str], component: Mapping[str, Any]) -> str | None:
    """Name and the parameters that it does not say by itself; None for other roles."""
    role, name = place
    if role not in _SAYING:
        return None
    beside = component.get("identity" if name == component.get("use") else "given", {})
    return ":".join([name, *(parameter_text(key, value) for key, value in beside.items())])


def _texts(name: str, variants: Mapping[str, Mapping[str, Any]]) -> dict[str, str]:
    """What variants of one name are called: the parameters they differ in, without those that go without saying.

    That is a value that most of them have, where the others are still told apart by what is left.
    """
    found = {parameter: None for params in variants.values() for parameter in params}
    values = {parameter: [repr(params.get(parameter)) for params in variants.values()] for parameter in found}
    differing = [parameter for parameter, given in values.items() if len(set(given)) > 1]
    usual = {
        parameter: value
        for parameter in differing
        for value, count in Counter(values[parameter]).items()
        if 2 * count > len(variants)
    }

    def text(params: Mapping[str, Any], left_out: Mapping[str, str]) -> str:
        said = [p for p in differing if left_out.get(p) != repr(params.get(p))]
        return ":".join([name, *(parameter_text(p, params.get(p)) for p in said)])

    short = {key: text(params, usual) for key, params in variants.items()}
    if len(set(short.values())) == len(short):
        return short
    return {key: text(params, {}) for key, params in variants.items()}


def chance_of(record: ResultRecord, row: Measurement) -> Fraction | None:
    """What guessing gives: k / classes for a top-k accuracy, 1 / ways for that of episodes; None for anything else.

    Episodes that each have ways of their own have no one chance.
    """
    found = re.fullmatch(r"accuracy|top(\d+)", row.metric)
    classes = row.dims.get("ways") or record.cell.get("num_classes")
    if found is None or not isinstance(classes, int) or not classes or "sampler" in row.dims:
        return None
    return min(Fraction(int(found[1] or 1), classes), Fraction(1))


def counted_text(rows: Iterable[Measurement]) -> str:
    """How many of what the rows are means over: ``360 images``, ``50 to 60 episodes``."""
    counts: dict[str, set[int]] = {}
    for row in rows:
        counts.setdefault(row.counted, set()).add(row.n)
    words = []
    for counted, found in counts.items():
        low, high = min(found), max(found)
        span = f"{low}" if low == high else f"{low} to {high}"
        words.append(f"{span} {counted.removesuffix('s') if high == 1 else counted}")
    return " and ".join(words)


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
