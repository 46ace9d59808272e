"""mCE and relative mCE on the published files of ImageNet-C, normalised by AlexNet's errors on those same files."""

from __future__ import annotations

import dataclasses
import hashlib
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, cast

import numpy as np

from harness.protocols import LABEL
from harness.types import NAMED_VIEWS
from harness_corruptions.alexnet import ALEXNET_CLEAN_ERROR, ALEXNET_ERRORS
from harness_corruptions.corruption_error import CORRUPTIONS
from harness_corruptions.error_rows import measured, rows_of_corruption, rows_of_means
from harness_corruptions.mce import benchmark_mean, excess, means, normalised
from harness_corruptions.paired_errors import CLEAN, CorruptedCell, classifies, paired_errors

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from harness.protocols import Outcomes, SummaryInput
    from harness.types import JSONScalar, Measurement
    from harness_corruptions.paired_errors import PairedErrors

FILES = "imagenet_c"
"""The dataset that reads the published files."""

PUBLISHED_IMAGES = 50_000
PUBLISHED_CLASSES = 1_000
PUBLISHED_SPACE = "imagenet1k"
PUBLISHED_VIEW = NAMED_VIEWS["imagenet_c"].text
"""How the files are meant to be read: they are 224 pixels wide, and resizing them once more is a well-known slip."""

KEY_DIGITS = 8
"""Digits of a digest that rows show."""

_OF_CELL = ("split", "view", "limit", "label_space", "num_classes")
_PLACE = ("corruption", "severity", "root")
"""Parameters that say which of the files a dataset is; all others say what is made of them."""


@dataclass(frozen=True, slots=True, kw_only=True)
class FileSet:
    """Unperturbed cells on the files that were asked about the same images in the same way.

    ``refused``: why AlexNet's errors are no baseline for them, empty where they are. ``dims``: what rows say.
    """

    cells: tuple[CorruptedCell, ...]
    refused: str
    dims: Mapping[str, JSONScalar]


class MCE:
    """mCE of Hendrycks and Dietterich (arXiv 1903.12261, section 4.1), from the published files (dataset imagenet_c).

    Per row of the probe, with the dimension ``source=files``:

    * ``mce``, ``relative_mce`` and, per ``corruption``, ``ce``: in percent of AlexNet's errors, all 50,000 files of
      each corruption and severity read as published. ``relative_mce`` needs the one record of the same model and probe
      on the whole validation set of ImageNet (50,000 images of label space imagenet1k) as well;
    * ``mean_corruption_error`` and ``corruption_error``, un-normalised, and ``mce_vs_NAME``, ``relative_mce_vs_NAME``
      and ``corruption_error_vs_NAME`` against baseline models: as of summary ``corruption_error``.

    For anything but those files as a whole (a limit, some classes, images that are missing, another view) AlexNet's
    errors are refused: there is no ``ce`` and no mCE by it, and all other rows say why, as ``alexnet_refused``. Means
    need all of the 15 corruptions and 5 severities on the same images, so a cell that had to skip an image stands
    alone. AlexNet's errors are taken as given; intervals (``bootstrap95``) resample the images, which corruptions
    share.
    """

    def compute(
        self,
        group: Sequence[SummaryInput],
        clean: SummaryInput | None,  # noqa: ARG002 - the contract's; over datasets it is only the first of the group
    ) -> list[Measurement]:
        """The measurements above; none without a corruption of which all severities were read."""
        rows: list[Measurement] = []
        validation = _validation(group)
        for files in file_sets(group):
            beside = None if files.refused or validation is None else validation
            for errors in paired_errors(files.cells, beside):
                if not files.refused:
                    rows += _published_means(errors, files)
                rows += rows_of_means(errors, files.dims)
                for corruption in CORRUPTIONS:
                    if not files.refused:
                        rows += _published(errors, corruption, files)
                    rows += rows_of_corruption(errors, corruption, files.dims)
        return rows


def _published_means(errors: PairedErrors, files: FileSet) -> list[Measurement]:
    alexnet = means(ALEXNET_ERRORS)
    rows = measured("mce", benchmark_mean(normalised(errors.own, alexnet)), errors, files.dims)
    if CLEAN in errors.own:
        ratios = normalised(excess(errors.own, errors.own[CLEAN]), excess(alexnet, ALEXNET_CLEAN_ERROR))
        rows += measured("relative_mce", benchmark_mean(ratios), errors, files.dims)
    return rows


def _published(errors: PairedErrors, corruption: str, files: FileSet) -> list[Measurement]:
    ratio = normalised(errors.own, means(ALEXNET_ERRORS)).get(corruption)
    return measured("ce", ratio, errors, {"corruption": corruption, **files.dims})


def file_sets(group: Sequence[SummaryInput]) -> list[FileSet]:
    """The cells of ``group`` on the published files, apart by all that keeps them from being one benchmark."""
    apart: dict[str, list[SummaryInput]] = {}
    for item in group:
        if _on_files(item) and classifies(item):
            apart.setdefault(repr((_asked(item), _images(item))), []).append(item)
    found = [_file_set(_newest(apart[name])) for name in sorted(apart)]
    return [
        dataclasses.replace(files, dims={**files.dims, "images": _images(files.cells[0].given)[:KEY_DIGITS]})
        if files.cells and sum(other.dims == files.dims for other in found) > 1
        else files
        for files in found
    ]


def _file_set(items: Sequence[SummaryInput]) -> FileSet:
    places = [_place(item) for item in items]
    twice = sorted({place for place in places if places.count(place) > 1})
    cells = [
        CorruptedCell(corruption=place[0], severity=place[1], given=item)
        for place, item in zip(places, items, strict=True)
        if place not in twice
    ]
    refused = "; ".join(
        [*_refusals(items[0]), *(f"two sets of files for {name}@{severity}" for name, severity in twice)]
    )
    dims: dict[str, JSONScalar] = {"source": "files"}
    if refused:
        dims["alexnet_refused"] = refused
    if (on_error := _dataset(items[0])["params"].get("on_error", "fail")) != "fail":
        dims["on_error"] = on_error
    return FileSet(cells=tuple(cells), refused=refused, dims=dims)


def _refusals(item: SummaryInput) -> list[str]:
    """In what an answer differs from one about all of the published files as they are."""
    cell, reasons = item.record.cell, []
    if cell["label_space"] != PUBLISHED_SPACE:
        reasons.append(f"label space {cell['label_space']}")
    if cell["num_classes"] != PUBLISHED_CLASSES:
        reasons.append(f"{cell['num_classes']} of {PUBLISHED_CLASSES} classes")
    if (found := len(_outcomes(item).positions)) != PUBLISHED_IMAGES:
        reasons.append(f"{found} of {PUBLISHED_IMAGES} images")
    if cell["limit"] is not None:
        reasons.append(f"limit {cell['limit']}")
    if cell["view"] != PUBLISHED_VIEW:
        reasons.append(f"view {cell['view']} instead of {PUBLISHED_VIEW}")
    return reasons


def _validation(group: Sequence[SummaryInput]) -> SummaryInput | None:
    """The one answer about the whole validation set of ImageNet without corruptions; None where there are several."""
    found = [
        item
        for item in group
        if not _on_files(item)
        and _is_clean(item)
        and classifies(item)
        and item.record.cell["label_space"] == PUBLISHED_SPACE
        and item.record.cell["num_classes"] == PUBLISHED_CLASSES
        and item.record.cell["limit"] is None
        and len(_outcomes(item).positions) == PUBLISHED_IMAGES
    ]
    return found[0] if len(found) == 1 else None


def _newest(items: Sequence[SummaryInput]) -> list[SummaryInput]:
    version = max(_dataset(item)["version"] for item in items)
    return [item for item in items if _dataset(item)["version"] == version]


def _asked(item: SummaryInput) -> dict[str, Any]:
    """What was asked of the files, whichever of them it was."""
    params = {name: value for name, value in _dataset(item)["params"].items() if name not in _PLACE}
    return {**{name: item.record.cell[name] for name in _OF_CELL}, **params}


def _images(item: SummaryInput) -> str:
    """What tells apart answers about different images: positions alone say little where some are missing."""
    outcomes = _outcomes(item)
    digest = hashlib.sha256(outcomes.positions.tobytes())
    if LABEL in outcomes.columns:
        digest.update(np.ascontiguousarray(outcomes.columns[LABEL][0]).tobytes())
    return digest.hexdigest()


def _place(item: SummaryInput) -> tuple[str, int]:
    params = _dataset(item)["params"]
    return str(params["corruption"]), int(params["severity"])


def _on_files(item: SummaryInput) -> bool:
    return _is_clean(item) and str(_dataset(item)["use"]).rpartition(":")[2] == FILES


def _is_clean(item: SummaryInput) -> bool:
    return bool(item.record.cell["components"]["perturbation"]["use"] == "none")


def _dataset(item: SummaryInput) -> Mapping[str, Any]:
    component: Mapping[str, Any] = item.record.cell["components"]["dataset"]
    return component


def _outcomes(item: SummaryInput) -> Outcomes:
    return cast("Outcomes", item.outcomes)
