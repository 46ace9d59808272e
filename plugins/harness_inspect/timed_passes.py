"""Forward passes by the clock: in rounds that take turns between batch sizes, so that a drift of the machine shows."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    import numpy.typing as npt


@dataclass(frozen=True, slots=True, kw_only=True)
class Passes:
    """Durations of the passes of one batch size: ``seconds`` (P,), and of each the round (P,) that it belongs to."""

    seconds: npt.NDArray[np.float64]
    rounds: npt.NDArray[np.int64]

    @property
    def round_medians(self) -> npt.NDArray[np.float64]:
        """The median duration in seconds of each round."""
        return np.array([np.median(self.seconds[self.rounds == number]) for number in np.unique(self.rounds)])

    @property
    def spread(self) -> float:
        """By what share the slowest round's median is above the fastest's: 0 on a machine that does nothing else."""
        medians = self.round_medians
        return float(medians.max() / medians.min() - 1)


def timed_rounds(
    passes: Mapping[int, Callable[[], object]], *, rounds: int, round_seconds: float, device: torch.device
) -> dict[int, Passes]:
    """Time ``passes``, each a call by batch size, in ``rounds`` of at least ``round_seconds`` and one call.

    In every round each batch size has its turn. The clock is read when the device has done all its work.
    """
    seconds: dict[int, list[float]] = {size: [] for size in passes}
    numbers: dict[int, list[int]] = {size: [] for size in passes}
    for number in range(rounds):
        for size, run in passes.items():
            found = _round(run, round_seconds, device)
            seconds[size] += found
            numbers[size] += [number] * len(found)
    return {size: Passes(seconds=np.array(seconds[size]), rounds=np.array(numbers[size], np.int64)) for size in passes}


def _round(run: Callable[[], object], least_seconds: float, device: torch.device) -> Sequence[float]:
    found: list[float] = []
    finish(device)
    start = before = time.perf_counter()
    while not found or before - start < least_seconds:
        run()
        finish(device)
        now = time.perf_counter()
        found.append(now - before)
        before = now
    return found


def finish(device: torch.device) -> None:
    """Wait until the device has done all it was asked."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    elif device.type == "mps":
        torch.mps.synchronize()
