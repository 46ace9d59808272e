"""Probes under a negative control: fitted on shuffled labels, or on features that say everything several times."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any

import numpy as np

from harness.control_cells import COPIES
from harness.protocols import Outcomes

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    import numpy.typing as npt
    from torch import Tensor

    from harness.protocols import FittedProbe, ProbeRun
    from harness.types import BlockTokens, ImageBatch, JSONScalar, Measurement, ModelOutputs, OutputSpec


def shuffled(labels: npt.NDArray[np.int64], permutation: int, seed: int) -> npt.NDArray[np.int64]:
    """The labels (N,) of a split in a random order, by the number of the permutation and the probe's seed."""
    generator = np.random.Generator(np.random.Philox(np.random.SeedSequence([seed, permutation])))
    order = generator.permutation(len(labels))
    return labels[order]


def duplicated(outputs: ModelOutputs, want: OutputSpec) -> ModelOutputs:
    """What ``want`` asks for of ``outputs``, with every feature :data:`~harness.control_cells.COPIES` times.

    Vectors and tokens become (..., COPIES x D): one after the other, not number by number.
    Logits and attention are left as they are.
    """

    def tokens(given: Mapping[int, BlockTokens], blocks: frozenset[int]) -> dict[int, BlockTokens]:
        return {
            block: dataclasses.replace(
                given[block], prefix=_copies(given[block].prefix), patches=_copies(given[block].patches)
            )
            for block in sorted(blocks & set(given))
        }

    return dataclasses.replace(
        outputs,
        pooled=None if outputs.pooled is None or not want.pooled else _copies(outputs.pooled),
        tokens=tokens(outputs.tokens, want.tokens),
        normed_tokens=tokens(outputs.normed_tokens, want.normed_tokens),
    )


def _copies(features: Tensor) -> Tensor:
    return features.repeat(*[1] * (features.ndim - 1), COPIES)


class FittedOnDuplicates:
    """A probe that was fitted on duplicated features, and is asked about duplicated features."""

    def __init__(self, fitted: FittedProbe, want: OutputSpec) -> None:
        self._fitted = fitted
        self._want = want

    def start(self) -> ProbeRun:
        """Fresh counters."""
        return _DuplicatedRun(self._fitted.start(), self._want)

    def scores(self, outputs: ModelOutputs) -> Tensor | None:
        """Those of the probe on duplicated features."""
        return self._fitted.scores(duplicated(outputs, self._want))


class _DuplicatedRun:
    def __init__(self, run: ProbeRun, want: OutputSpec) -> None:
        self._run = run
        self._want = want

    def update(self, batch: ImageBatch, outputs: ModelOutputs, clean: ModelOutputs | None) -> None:
        seen = None if clean is None else duplicated(clean, self._want)
        self._run.update(batch, duplicated(outputs, self._want), seen)

    def merge(self, other: ProbeRun) -> None:
        if not isinstance(other, _DuplicatedRun):
            raise TypeError(f"cannot merge {type(other).__name__} into a run on duplicated features")
        self._run.merge(other._run)

    def result(self) -> list[Measurement]:
        return self._run.result()

    def outcomes(self) -> Outcomes:
        return self._run.outcomes()

    def state_dict(self) -> dict[str, npt.NDArray[Any]]:
        return self._run.state_dict()

    def load_state_dict(self, state: Mapping[str, npt.NDArray[Any]]) -> None:
        self._run.load_state_dict(state)


class FittedOnShuffles:
    """One probe fitted once per permutation of the support labels; all of them are asked about every image."""

    def __init__(self, fits: Sequence[FittedProbe]) -> None:
        self._fits = tuple(fits)

    def start(self) -> ProbeRun:
        """Fresh counters."""
        return _ShuffledRun([fitted.start() for fitted in self._fits])

    def scores(self, outputs: ModelOutputs) -> None:  # noqa: ARG002  # the contract's
        """None: there is no one probe to aim at."""
        return


class _ShuffledRun:
    """A run per permutation; numbers are means over permutations, with the range that holds 95 % of them."""

    def __init__(self, runs: Sequence[ProbeRun]) -> None:
        self._runs = tuple(runs)

    def update(self, batch: ImageBatch, outputs: ModelOutputs, clean: ModelOutputs | None) -> None:
        for run in self._runs:
            run.update(batch, outputs, clean)

    def merge(self, other: ProbeRun) -> None:
        if not isinstance(other, _ShuffledRun) or len(other._runs) != len(self._runs):
            raise TypeError(f"cannot merge {type(other).__name__} into a run over shuffled labels")
        for mine, theirs in zip(self._runs, other._runs, strict=True):
            mine.merge(theirs)

    def result(self) -> list[Measurement]:
        """Every number that all permutations give: its mean, quantiles 2.5 and 97.5 % as its ends, ``n`` of them."""
        by_row: dict[tuple[str, tuple[tuple[str, JSONScalar], ...]], list[Measurement]] = {}
        for run in self._runs:
            for row in run.result():
                by_row.setdefault((row.metric, tuple(row.dims.items())), []).append(row)
        rows = []
        for found in by_row.values():
            if len(found) != len(self._runs):
                continue
            values = np.array([row.value for row in found], np.float64)
            low, high = np.quantile(values, [0.025, 0.975]).tolist()
            rows.append(
                dataclasses.replace(
                    found[0],
                    value=float(values.mean()),
                    low=low,
                    high=high,
                    interval="permutations95",
                    n=len(found),
                    counted="permutations",
                )
            )
        return rows

    def outcomes(self) -> Outcomes:
        """Those of every permutation, whose variants say which by ``permutation``."""
        found = [run.outcomes() for run in self._runs]
        first = found[0]
        return Outcomes(
            positions=first.positions,
            variants=tuple({"permutation": p, **v} for p, table in enumerate(found) for v in table.variants),
            columns={name: np.concatenate([table.columns[name] for table in found]) for name in first.columns},
            episodes=None
            if first.episodes is None
            else np.concatenate([table.episodes for table in found if table.episodes is not None]),
        )

    def state_dict(self) -> dict[str, npt.NDArray[Any]]:
        return {f"{p}.{name}": value for p, run in enumerate(self._runs) for name, value in run.state_dict().items()}

    def load_state_dict(self, state: Mapping[str, npt.NDArray[Any]]) -> None:
        for p, run in enumerate(self._runs):
            prefix = f"{p}."
            run.load_state_dict({n.removeprefix(prefix): v for n, v in state.items() if n.startswith(prefix)})
