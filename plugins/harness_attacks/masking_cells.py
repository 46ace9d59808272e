"""What every attack of a group left right, image by image, and what was realised of its gradients and restarts."""

from __future__ import annotations

import dataclasses
from collections import Counter
from dataclasses import dataclass
from functools import reduce
from typing import TYPE_CHECKING

import numpy as np

from harness_attacks.masking_attacks import Attack, attack_of

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    import numpy.typing as npt

    from harness.protocols import Outcomes, SummaryInput
    from harness.types import JSONScalar


@dataclass(frozen=True, slots=True, kw_only=True)
class PerImage:
    """A number for each of N images, the mean over the ``seeds`` that there are.

    ``positions`` (N,) int64, rising; ``values`` (N,) float64.
    """

    positions: npt.NDArray[np.int64]
    values: npt.NDArray[np.float64]
    seeds: int = 1

    @property
    def mean(self) -> float:
        """Over images."""
        return float(self.values.mean())

    def at(self, positions: npt.NDArray[np.int64]) -> npt.NDArray[np.float64]:
        """The values of some of the images."""
        return self.values[np.searchsorted(self.positions, positions)]


@dataclass(frozen=True, slots=True, kw_only=True)
class Cell:
    """One attack at one level, ``eps_255``, over all of its seeds."""

    attack: Attack
    eps_255: float
    inputs: tuple[SummaryInput, ...]

    def correct(self, dims: Mapping[str, JSONScalar]) -> PerImage | None:
        """What the row of the probe got right after the attack; None where there is no such row, or no image."""
        return _average([_correct(item.outcomes, dims) for item in self.inputs])

    def realised(self, name: str) -> PerImage | None:
        """A realised quantity; None unless every seed recorded it."""
        return _average([_column(item.outcomes, name) for item in self.inputs])


def cells_of(group: Sequence[SummaryInput]) -> list[Cell]:
    """The attacks of a group with a budget above 0, by label and level; cells that differ in their seed are one."""
    found: dict[tuple[str, float], list[SummaryInput]] = {}
    attacks: dict[str, Attack] = {}
    for item in group:
        attack = attack_of(item.record)
        if attack is not None and float(item.record.cell["level"]) > 0:
            attacks.setdefault(attack.fingerprint, attack)
            found.setdefault((attack.fingerprint, float(item.record.cell["level"])), []).append(item)
    labels = Counter(attack.label for attack in attacks.values())
    for key, attack in attacks.items():
        if labels[attack.label] > 1:  # of several versions, or crafted on several weights
            attacks[key] = dataclasses.replace(attack, label=f"{attack.label} ({key[:6]})")
    made = [Cell(attack=attacks[key], eps_255=eps, inputs=tuple(items)) for (key, eps), items in found.items()]
    return sorted(made, key=lambda cell: (cell.attack.label, cell.attack.fingerprint, cell.eps_255))


def rows_of(cells: Sequence[Cell]) -> list[dict[str, JSONScalar]]:
    """What tells the probe's rows apart, seeds aside, over all cells; of a head that was attacked, the first row only.

    The other heads of a distilled model were not what the attack aimed at.
    """
    rows: list[dict[str, JSONScalar]] = []
    for cell in cells:
        for item in cell.inputs:
            variants = () if item.outcomes is None else item.outcomes.variants
            for variant in variants[:1] if cell.attack.aim.target == "head" else variants:
                if (dims := _row(variant)) not in rows:
                    rows.append(dims)
    return rows


def clean_correct(clean: SummaryInput | None, dims: Mapping[str, JSONScalar]) -> PerImage | None:
    """What the row got right of the unperturbed images."""
    return None if clean is None else _average([_correct(clean.outcomes, dims)])


def common(given: Sequence[PerImage]) -> npt.NDArray[np.int64]:
    """The images that all of ``given`` know of, rising."""
    return reduce(np.intersect1d, [item.positions for item in given])


def _row(variant: Mapping[str, JSONScalar]) -> dict[str, JSONScalar]:
    return {name: value for name, value in variant.items() if name != "seed"}


def _correct(outcomes: Outcomes | None, dims: Mapping[str, JSONScalar]) -> PerImage | None:
    if outcomes is None or "correct" not in outcomes.columns:
        return None
    variants = [place for place, variant in enumerate(outcomes.variants) if _row(variant) == dims]
    if not variants:
        return None
    values = outcomes.columns["correct"][variants].mean(axis=0, dtype=np.float64)
    return PerImage(positions=outcomes.positions, values=values, seeds=len(variants))


def _column(outcomes: Outcomes | None, name: str) -> PerImage | None:
    if outcomes is None or name not in outcomes.columns:
        return None
    return PerImage(positions=outcomes.positions, values=outcomes.columns[name][0].astype(np.float64))


def _average(given: Sequence[PerImage | None]) -> PerImage | None:
    known = list(_present(given))
    if not known or len(known) < len(given) or not len(images := common(known)):
        return None
    values = np.mean([item.at(images) for item in known], axis=0)
    return PerImage(positions=images, values=values, seeds=sum(item.seeds for item in known))


def _present(given: Sequence[PerImage | None]) -> Iterator[PerImage]:
    yield from (item for item in given if item is not None)
