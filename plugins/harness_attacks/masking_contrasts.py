"""Pairs of attacks of which one should leave less right than the other, image by image."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import groupby, pairwise
from typing import TYPE_CHECKING

import numpy as np

from harness_attacks.masking_attacks import Aim
from harness_attacks.masking_cells import Cell, PerImage, common

if TYPE_CHECKING:
    from collections.abc import Mapping

    import numpy.typing as npt

    from harness.types import JSONScalar

Answers = Sequence[tuple[Cell, PerImage]]
"""Cells and what one row of the probe got right of their images, by rising level within each attack."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Contrast:
    """Accuracies ``first`` and ``second`` (N,) of the same images, whose mean difference is the ``metric``.

    ``suspicious``: the sign, 1 or -1, of a difference that speaks of masking. ``flag`` that a significant one raises,
    None where there is none to raise. ``is_shown``: of a series, the one that stands for all.
    """

    metric: str
    dims: Mapping[str, JSONScalar]
    first: npt.NDArray[np.float64]
    second: npt.NDArray[np.float64]
    suspicious: int
    flag: str | None
    is_shown: bool = True

    @property
    def value(self) -> float:
        """The mean of ``first - second``."""
        return float((self.first - self.second).mean())

    @property
    def is_suspicious(self) -> bool:
        """Whether the difference has the sign that speaks of masking."""
        return self.suspicious * self.value > 0


def one_step_against_many(answers: Answers, row: Mapping[str, JSONScalar]) -> Iterator[Contrast]:
    """``fgsm_minus_pgd`` for every FGSM and PGD of equal aim and eps."""
    judged = [(cell, correct) for cell, correct in answers if cell.attack.lowers_accuracy]
    for fgsm, under_fgsm in judged:
        for pgd, under_pgd in judged:
            if not fgsm.attack.is_single_step or not pgd.attack.is_projected:
                continue
            equal = fgsm.attack.aim == pgd.attack.aim and fgsm.eps_255 == pgd.eps_255
            if equal and pgd.attack.reaches(pgd.eps_255):
                dims: dict[str, JSONScalar] = {
                    "attack": pgd.attack.label,
                    "against": fgsm.attack.label,
                    "level": pgd.eps_255,
                }
                yield from _contrast("fgsm_minus_pgd", {**row, **dims}, under_fgsm, under_pgd, -1, "pgd_weaker")


def along_eps(answers: Answers, clean: PerImage | None, row: Mapping[str, JSONScalar]) -> Iterator[Contrast]:
    """``rise_with_eps`` for every attack, from the clean image on."""
    judged = [(cell, correct) for cell, correct in answers if cell.attack.lowers_accuracy]
    for _, members in groupby(judged, key=lambda answer: answer[0].attack.fingerprint):
        series = [(cell.eps_255, cell.attack, correct) for cell, correct in members]
        attack = series[0][1]
        points = [] if clean is None else [(0.0, clean)]
        points += [(eps, correct) for eps, _, correct in series if attack.reaches(eps)]
        flag = "rise_with_eps" if attack.climbs else None
        found = [
            contrast
            for (low, before), (high, after) in pairwise(points)
            for contrast in _contrast(
                "rise_with_eps",
                {**row, "attack": attack.label, "from_level": low, "level": high},
                after,
                before,
                1,
                flag,
            )
        ]
        yield from _with_largest_shown(found)


def along_steps(answers: Answers, row: Mapping[str, JSONScalar]) -> Iterator[Contrast]:
    """``rise_with_steps`` for every set of attacks that differ in their steps only, at one eps."""
    series: dict[tuple[str, Aim, float], list[tuple[int, PerImage]]] = {}
    for cell, correct in answers:
        attack = cell.attack
        if attack.lowers_accuracy and attack.climbs and attack.steps is not None:
            key = (attack.but_for_steps, attack.aim, cell.eps_255)
            series.setdefault(key, []).append((attack.steps, correct))
    for (label, _, eps), members in series.items():
        points = sorted(members, key=lambda point: point[0])
        found = [
            contrast
            for (few, before), (many, after) in pairwise(points)
            if few < many
            for contrast in _contrast(
                "rise_with_steps",
                {**row, "attack": label, "level": eps, "from_steps": few, "steps": many},
                after,
                before,
                1,
                "rise_with_steps",
            )
        ]
        yield from _with_largest_shown(found)


def against_black_box(answers: Answers, row: Mapping[str, JSONScalar]) -> Iterator[Contrast]:
    """``black_box_minus_white_box`` for every untargeted black-box attack with white-box rivals of its norm and eps."""
    for cell, under_black_box in answers:
        attack = cell.attack
        if not attack.is_black_box or attack.aim.goal != "untargeted":
            continue
        rivals = [
            correct
            for other, correct in answers
            if other.attack.is_white_box and other.attack.aim.norm == attack.aim.norm and other.eps_255 == cell.eps_255
        ]
        if not rivals:
            continue
        images = common(rivals)
        if not len(images):
            continue
        strongest = PerImage(positions=images, values=np.min([rival.at(images) for rival in rivals], axis=0))
        dims = {**row, "attack": attack.label, "level": cell.eps_255}
        yield from _contrast("black_box_minus_white_box", dims, under_black_box, strongest, -1, "black_box_stronger")


def _contrast(
    metric: str,
    dims: Mapping[str, JSONScalar],
    first: PerImage,
    second: PerImage,
    suspicious: int,
    flag: str | None,
) -> Iterator[Contrast]:
    """One contrast over the images that both sides have, or none."""
    images = common([first, second])
    if len(images):
        yield Contrast(
            metric=metric,
            dims=dims,
            first=first.at(images),
            second=second.at(images),
            suspicious=suspicious,
            flag=flag,
        )


def _with_largest_shown(series: Sequence[Contrast]) -> list[Contrast]:
    """Of equal rises the first is shown."""
    if not series:
        return []
    largest = max(range(len(series)), key=lambda place: series[place].value)
    return [replace(contrast, is_shown=place == largest) for place, contrast in enumerate(series)]
