"""What a probe shows beside its numbers: findings go in, pictures and tables come out."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, TypeAlias

if TYPE_CHECKING:
    import numpy.typing as npt
    from matplotlib.figure import Figure

    from harness.protocols import Outcomes
    from harness.types import JSONScalar, ResultRecord


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """One record with all that its probe kept.

    ``model`` and ``condition`` name it among the others of its exhibit, as tables do; ``condition`` is the
    perturbation with its level, ``none`` for the clean images. ``level`` is None where there is none. ``arrays`` are
    those of :meth:`~harness.protocols.HasArrays.arrays`, empty for a probe that keeps none. ``outcomes``: what was
    found for each image, with what the perturbation realised among the columns; ``ids``: their N ids.
    """

    record: ResultRecord
    model: str
    condition: str
    level: float | None = None
    arrays: Mapping[str, npt.NDArray[Any]] = field(default_factory=dict)
    outcomes: Outcomes | None = None
    ids: Sequence[str] = ()

    @property
    def label(self) -> str:
        """Model and condition, in words."""
        return self.model if self.condition == "none" else f"{self.model}, {self.condition}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Table:
    """A table for machines: every number in full."""

    header: Sequence[str]
    rows: Sequence[Sequence[JSONScalar]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Exhibit:
    """Pictures and tables by name; the name of the chief one, or of an only one, is empty."""

    pictures: Mapping[str, Figure] = field(default_factory=dict)
    tables: Mapping[str, Table] = field(default_factory=dict)


MakeExhibit: TypeAlias = "Callable[[Sequence[Finding]], Exhibit]"
"""What :attr:`~harness.entries.ProbeEntry.exhibit` names.

It is given the findings of one probe on one dataset, in the order of the plan: one or many models, clean or under
perturbations at one or many levels. It leaves none of them out; what does not fit on one picture goes on another.
"""
