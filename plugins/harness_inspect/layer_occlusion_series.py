"""Findings of layer by occlusion in order: by model and perturbation, along the loss."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from harness.protocols import INFORMATION_LOSS

if TYPE_CHECKING:
    from collections.abc import Sequence

    import numpy.typing as npt

    from harness.exhibits import Finding
    from harness.types import Measurement

LOSS, LEVEL, CONDITION = "information loss (%)", "level", "condition"
"""What findings are ordered by, and axes are labelled with."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Series:
    """The findings of a ``model`` under one ``perturbation``: the clean ones first, then by rising loss or level."""

    model: str
    perturbation: str
    findings: tuple[Finding, ...]

    @property
    def perturbed(self) -> list[Finding]:
        """The findings that are not clean."""
        return [finding for finding in self.findings if not is_clean(finding)]

    @property
    def axis(self) -> str:
        """The realised loss, where all perturbed findings have one; else the level; else there is only the name.

        Several perturbations that share a series are told apart by name alone.
        """
        if len([finding for finding in self.perturbed if finding.level is None]) > 1:
            return CONDITION
        if all(loss_of(finding) is not None for finding in self.perturbed):
            return LOSS
        return LEVEL if all(finding.level is not None for finding in self.perturbed) else CONDITION

    @property
    def blocks(self) -> list[int]:
        """The blocks, rising."""
        return sorted({block for finding in self.findings for block in by_block(finding, "accuracy_of_block")})

    @property
    def chances(self) -> set[float]:
        """What guessing gives: one over the number of classes learned."""
        return {m.value for finding in self.findings for m in finding.record.measurements if m.metric == "chance"}

    def values(self, metric: str) -> npt.NDArray[np.float64]:
        """(blocks, findings), NaN where there is no such number."""
        rows = [by_block(finding, metric) for finding in self.findings]
        return np.array([[row[b].value if b in row else np.nan for row in rows] for b in self.blocks], np.float64)

    def nearest(self, level: float | None) -> Finding:
        """The perturbed finding at the level nearest to ``level``; without one, the one nearest to half of the loss.

        The middle one, where there are neither levels nor losses; a clean one, where there is nothing else.
        """
        found = self.perturbed
        if not found:
            return self.findings[0]
        if level is not None and all(finding.level is not None for finding in found):
            return min(found, key=lambda finding: abs((finding.level or 0.0) - level))
        if self.axis == LOSS:
            return min(found, key=lambda finding: abs((loss_of(finding) or 0.0) - 0.5))
        return found[len(found) // 2]


def series_of(findings: Sequence[Finding], *, apart: bool = False) -> list[Series]:
    """Findings by model and perturbation, in the order given; the clean ones of a model are in all of its series.

    Perturbations without levels share a series of their model, or have one each where they are taken ``apart``.
    """
    groups: dict[tuple[str, str | None], list[Finding]] = {}
    clean: dict[str, list[Finding]] = {}
    for finding in findings:
        if is_clean(finding):
            clean.setdefault(finding.model, []).append(finding)
        else:
            shared = finding.level is None and not apart
            groups.setdefault((finding.model, None if shared else _without_level(finding)), []).append(finding)
    perturbed = {model for model, _ in groups}
    groups |= {(model, "none"): [] for model in clean if model not in perturbed}
    return [
        Series(
            model=model,
            perturbation=name or _shared_name(members),
            findings=(*clean.get(model, []), *sorted(members, key=_place)),
        )
        for (model, name), members in groups.items()
    ]


def loss_of(finding: Finding) -> float | None:
    """The information loss that was realised, in [0, 1]; 0 for clean images, None where none was recorded."""
    if is_clean(finding):
        return 0.0
    return next((m.value for m in finding.record.measurements if m.metric == INFORMATION_LOSS and not m.dims), None)


def is_clean(finding: Finding) -> bool:
    """Whether the images asked about were left alone."""
    return str(finding.record.cell["perturbation"]) == "none"


def by_block(finding: Finding, metric: str) -> dict[int, Measurement]:
    """The rows of ``metric`` by block."""
    return {
        int(str(m.dims["block"])): m for m in finding.record.measurements if m.metric == metric and "block" in m.dims
    }


def _place(finding: Finding) -> tuple[float, float]:
    return loss_of(finding) or 0.0, finding.level or 0.0


def _without_level(finding: Finding) -> str:
    return finding.condition if finding.level is None else finding.condition.replace(f"@{finding.level:g}", "", 1)


def _shared_name(members: Sequence[Finding]) -> str:
    return members[0].condition if len(members) == 1 else "perturbations without levels"
