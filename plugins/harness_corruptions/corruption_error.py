"""Errors under corruptions made in memory, and mCE against a baseline model that saw the very same pixels."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Any

from harness_corruptions.error_rows import rows_of_corruption, rows_of_means
from harness_corruptions.paired_errors import CorruptedCell, paired_errors
from harness_corruptions.parameters import CorruptionParams, FrostParams
from harness_corruptions.plugin import BENCHMARK, EXTRA

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from harness.protocols import SummaryInput
    from harness.types import JSONScalar, Measurement

CORRUPTIONS = tuple(name for name, *_ in (*BENCHMARK, *EXTRA))

_DEFINING = tuple(field.name for field in fields(CorruptionParams))
_ALWAYS_SAID = ("variant", "implementation")


@dataclass(frozen=True, slots=True, kw_only=True)
class Definition:
    """Cells of corruptions that are defined alike and computed by the same code: what one mCE may be a mean over.

    ``dims`` say so: ``variant`` and ``implementation`` always, other parameters where they are not the default.
    ``textures``: the frost, where it is not the default.
    """

    dims: Mapping[str, JSONScalar]
    textures: Mapping[str, JSONScalar]
    cells: tuple[CorruptedCell, ...]

    def dims_of(self, corruption: str | None) -> Mapping[str, JSONScalar]:
        """What a row of ``corruption``, or of a mean for None, says of itself."""
        return {**self.dims, **(self.textures if corruption in (None, "frost") else {})}


class CorruptionError:
    """How often a model is wrong under the corruptions of Hendrycks and Dietterich (arXiv 1903.12261), made in memory.

    Per row of the probe (each head; each number of shots, its seeds averaged) and per definition, that is ``variant``,
    ``implementation`` and whatever else is no default (they are never mixed):

    * ``corruption_error`` per ``corruption``: top-1 error, the mean over severities 1 to 5, of all 19;
    * ``mean_corruption_error``: the mean of that over the 15 of the benchmark. It is not normalised, so it is no mCE;
    * ``corruption_error_vs_NAME``: in percent of the error of the baseline model NAME, both summed over severities;
    * ``mce_vs_NAME``: the mean of that over the 15; NAME itself has 100;
    * ``relative_mce_vs_NAME``: the same of what errors exceed the clean error by, in model and baseline.

    AlexNet's published errors are no baseline here: they belong to the published files (summary ``mce``). What is not
    complete has no number: a corruption without one of its severities, a mean without one of the 15, a ratio whose
    denominator is not positive. All numbers of a definition speak of the images that every cell has answered; ``n`` is
    their number. Seeds of the perturbation are averaged within each image, then images are resampled, the same for
    model and baseline (``bootstrap95``).
    """

    def compute(self, group: Sequence[SummaryInput], clean: SummaryInput | None) -> list[Measurement]:
        """The measurements above; none where nothing was corrupted at all severities."""
        rows: list[Measurement] = []
        told: set[tuple[object, ...]] = set()
        for definition in definitions(group):
            for errors in paired_errors(definition.cells, clean):
                rows += rows_of_means(errors, definition.dims_of(None))
                for corruption in CORRUPTIONS:
                    found = rows_of_corruption(errors, corruption, definition.dims_of(corruption))
                    # Definitions that differ in their frost share all other corruptions.
                    rows += [row for row in found if _identity(row) not in told]
                    told.update(map(_identity, found))
        return rows


def _identity(row: Measurement) -> tuple[object, ...]:
    return row.metric, tuple(sorted(row.dims.items()))


def definitions(group: Sequence[SummaryInput]) -> Iterator[Definition]:
    """The cells of the 19 corruptions in ``group`` by how they are defined, of each corruption the newest version."""
    by_params: dict[tuple[object, ...], list[SummaryInput]] = {}
    for item in group:
        if _is_corruption(item):
            params = _component(item)["params"]
            by_params.setdefault(tuple(params[name] for name in _DEFINING), []).append(item)
    default = CorruptionParams()
    for values in sorted(by_params, key=str):
        params = dict(zip(_DEFINING, values, strict=True))
        dims: Any = {
            name: value for name, value in params.items() if name in _ALWAYS_SAID or value != getattr(default, name)
        }
        items = by_params[values]
        frosts = sorted({_component(item)["params"]["textures"] for item in items if _use(item) == "frost"})
        for textures in frosts or [FrostParams().textures]:
            alike = [
                item for item in items if _use(item) != "frost" or _component(item)["params"]["textures"] == textures
            ]
            yield Definition(
                dims=dims,
                textures={} if textures == FrostParams().textures else {"textures": textures},
                cells=tuple(_newest(alike)),
            )


def _newest(items: Sequence[SummaryInput]) -> Iterator[CorruptedCell]:
    versions: dict[str, int] = {}
    for item in items:
        versions[_use(item)] = max(_component(item)["version"], versions.get(_use(item), 0))
    for item in items:
        if _component(item)["version"] == versions[_use(item)]:
            yield CorruptedCell(corruption=_use(item), severity=int(item.record.cell["level"]), given=item)


def _component(item: SummaryInput) -> Mapping[str, Any]:
    component: Mapping[str, Any] = item.record.cell["components"]["perturbation"]
    return component


def _use(item: SummaryInput) -> str:
    # Where two plugins offer one name, records know each by its plugin's as well.
    return str(_component(item)["use"]).rpartition(":")[2]


def _is_corruption(item: SummaryInput) -> bool:
    """Whether it is one of ours: another plugin's perturbation of the name has other parameters."""
    return (
        _use(item) in CORRUPTIONS
        and item.record.cell["level"] is not None
        and {*_DEFINING, *(["textures"] if _use(item) == "frost" else [])} <= _component(item)["params"].keys()
    )
