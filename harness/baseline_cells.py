"""Baselines: the cells of a named model that other models' numbers are divided by, planned beside theirs."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Iterator, Mapping
from typing import TYPE_CHECKING

from harness.components import DatasetComponent, ModelComponent, check_applies
from harness.errors import CapabilityError, UsageError
from harness.planning import PlannedCell

if TYPE_CHECKING:
    from collections.abc import Sequence


def require_something_to_compare(items: Sequence[PlannedCell], datasets: Iterable[DatasetComponent]) -> None:
    """Raise :class:`UsageError` where no number of the grid is read against a baseline."""
    if not any(item.perturbation.baselined for item in items) and not any(found.baselined for found in datasets):
        raise UsageError(
            "--baseline: nothing that was asked for is read against a baseline model",
            hint="corruptions are, by mCE: --perturb gaussian_noise@all, or --suite corruptions",
        )


def baseline_cells(
    items: Iterable[PlannedCell], datasets: Mapping[str, DatasetComponent], baseline: ModelComponent
) -> Iterator[tuple[PlannedCell, PlannedCell]]:
    """Each cell that is read against ``baseline`` with the same cell of that model: the same pixels, the same probe.

    ``datasets``: the dataset of a cell by its key. Clean cells come along, for relative errors. Raises
    :class:`CapabilityError` where the baseline cannot be asked.
    """
    for item in items:
        dataset = datasets[item.key]
        if not (item.perturbation.baselined or item.perturbation.is_clean or dataset.baselined):
            continue
        try:
            check_applies(baseline, item.perturbation, item.probe, dataset.dataset.info.label_space)
        except CapabilityError as error:
            raise CapabilityError(f"--baseline {baseline.ref.name}: {error.message}", hint=error.hint) from error
        cell = dataclasses.replace(item.cell, model=baseline.ref, weights=baseline.weights)
        yield item, dataclasses.replace(item, cell=cell, is_control=True)
