"""How a plan is executed, and the count of what that took: light values that import no torch."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from harness.errors import UsageError
from harness.types import ResultRecord


@dataclass(frozen=True, slots=True, kw_only=True)
class RunOptions:
    """How a plan is executed: nothing here can change a number beyond rounding.

    ``workers``: decoding threads. ``checkpoint_every``: batches between checkpoints, ``auto`` for as often as costs
    2 % of the time. ``cache_dir``: where support features lie, None to keep them in memory only.
    ``fail_fast`` ends the run at the first cell that fails instead of going on with the others.
    """

    device: str = "auto"
    batch_size: int | Literal["auto"] = "auto"
    workers: int = 2
    checkpoint_every: int | Literal["auto"] = "auto"
    cache_dir: Path | None = None
    fail_fast: bool = False

    def __post_init__(self) -> None:
        for name, low in (("batch_size", 1), ("checkpoint_every", 1), ("workers", 0)):
            value = getattr(self, name)
            if (name == "workers" or value != "auto") and (not isinstance(value, int) or value < low):
                raise UsageError(f"{name.replace('_', '-')} must be a whole number from {low} up, not {value!r}")


@dataclass(slots=True)
class Counters:
    """What a run really did. A run that finds everything recorded leaves all of them at zero."""

    decoded_images: int = 0
    skipped_images: int = 0
    forward_passes: int = 0
    forward_images: int = 0
    cached_tables: int = 0
    """Support feature tables that were read instead of extracted."""


def summarised_counts(counters: Counters, records: Sequence[ResultRecord], reused: int) -> str:
    """One line that says what a run did, and what it did not have to do."""
    return (
        f"{len(records)} records ({reused} already there); {counters.decoded_images} images decoded, "
        f"{counters.forward_passes} forward passes over {counters.forward_images} images"
    )
