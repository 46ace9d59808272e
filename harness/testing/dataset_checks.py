"""Checks of datasets: an order that stays, ids that mean one image, and pixels that depend on nothing else."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import numpy as np
import torch

from harness.errors import DataError
from harness.protocols import Dataset, DatasetInfo
from harness.testing.kit import CheckFunction, NotApplicableError, Subject, expect, expect_refusal
from harness.testing.observe import differing_fields, global_randomness_untouched
from harness.testing.sample import take_images
from harness.types import View

VIEWS = (View(resize=36, crop=32), View(resize=24, crop=24, interpolation="nearest", mode="squash"))
"""Two views that any image can be shown under, whatever its size."""


def views_of(info: DatasetInfo) -> tuple[View, ...]:
    """The views to try a dataset under: any two, or its own where its images must not be resized."""
    return VIEWS if info.view is None else (info.view, View(crop=min(24, info.view.crop)))


def check_splits_named(subject: Subject) -> None:
    """The splits for support, query and whole are among those the dataset lists, and each holds images."""
    dataset = _made(subject)
    info = dataset.info
    expect(len(set(info.splits)) == len(info.splits), f"expected each split once, found {info.splits}")
    roles = {"query_split": info.query_split, "whole_split": info.whole_split, "support_split": info.support_split}
    for role, split in roles.items():
        expect(
            split in info.splits or (role == "support_split" and split is None),
            f"{role}: expected one of {', '.join(info.splits)}, found {split!r}",
        )
    for split in info.splits:
        expect(len(dataset.index(split)) > 0, f"split {split!r}: expected images, found none")


def check_order_and_fingerprint_stable(subject: Subject) -> None:
    """Opened again, the dataset has the same ids and labels in the same order, and the same fingerprint."""
    first, second = _made(subject), _made(subject)
    expect(bool(first.info.fingerprint), "expected a fingerprint, found an empty one")
    expect(
        first.info.fingerprint == second.info.fingerprint,
        f"expected the fingerprint {first.info.fingerprint[:16]} again, found {second.info.fingerprint[:16]}",
    )
    for split in first.info.splits:
        a, b = first.index(split), second.index(split)
        moved = next((i for i, (x, y) in enumerate(zip(a.ids, b.ids, strict=False)) if x != y), None)
        expect(
            len(a) == len(b) and moved is None, f"split {split!r}: expected the same order, found another from {moved}"
        )
        expect(np.array_equal(a.labels, b.labels), f"split {split!r}: expected the same labels, found others")


def check_ids_unique(subject: Subject) -> None:
    """An id names one image: unique in its split, of one label everywhere, and never in both support and query."""
    dataset = _made(subject)
    info = dataset.info
    labels: dict[str, int] = {}
    by_split: dict[str, set[str]] = {}
    for split in info.splits:
        index = dataset.index(split)
        by_split[split] = set(index.ids)
        double = len(index) - len(by_split[split])
        expect(double == 0, f"split {split!r}: expected {len(index)} different ids, found {double} repeated")
        for name, label in zip(index.ids, index.labels.tolist(), strict=True):
            known = labels.setdefault(name, label)
            expect(known == label, f"id {name!r}: expected label {known} in every split, found {label} in {split!r}")
    if info.support_split is not None:
        both = sorted(by_split[info.support_split] & by_split[info.query_split])
        example = f", such as {both[0]!r}" if both else ""
        expect(not both, f"expected no id in both support and query, found {len(both)}{example}")


def check_labels_within_classes(subject: Subject) -> None:
    """Labels are int64 numbers of the classes listed, one per id, and class names differ."""
    dataset = _made(subject)
    classes = dataset.info.classes
    expect(
        len(set(classes)) == len(classes) > 0, f"expected class names that differ, found {len(classes)} with repeats"
    )
    for split in dataset.info.splits:
        index = dataset.index(split)
        labels = index.labels
        expect(
            labels.dtype == np.int64 and labels.shape == (len(index.ids),),
            f"split {split!r}: expected ({len(index.ids)},) int64 labels, found {labels.shape} {labels.dtype}",
        )
        low, high = int(labels.min()), int(labels.max())
        expect(
            low >= 0 and high < len(classes),
            f"split {split!r}: expected labels in [0, {len(classes)}), found {low} to {high}",
        )


def check_unknown_split_refused(subject: Subject) -> None:
    """A split that is not there raises DataError."""
    dataset = _made(subject)
    name = "no-such-split"
    expect_refusal(DataError, f"index({name!r})", lambda: dataset.index(name))
    expect_refusal(DataError, f"load({name!r})", lambda: dataset.load(name, [0], views_of(dataset.info)[0]))


def check_loads_what_was_asked(subject: Subject) -> None:
    """Loading gives the positions asked for, in that order, with the ids and labels of the index."""
    dataset = _made(subject)
    for split in dataset.info.splits:
        index = dataset.index(split)
        positions = _positions(subject, len(index))[::-1]
        batch = dataset.load(split, positions, views_of(dataset.info)[0])
        expect(
            batch.positions.tolist() == positions,
            f"split {split!r}: expected positions {positions}, found {batch.positions.tolist()}",
        )
        ids = tuple(index.ids[position] for position in positions)
        expect(batch.ids == ids, f"split {split!r}: expected the ids {ids}, found {batch.ids}")
        labels = index.labels[positions].tolist()
        expect(
            batch.labels.tolist() == labels, f"split {split!r}: expected labels {labels}, found {batch.labels.tolist()}"
        )
        expect(batch.labels.dtype == torch.int64, f"expected int64 labels, found {batch.labels.dtype}")


def check_images_fit_the_view(subject: Subject) -> None:
    """Images are float32 in [0, 1] on the CPU, of the side that the view crops."""
    dataset = _made(subject)
    split = dataset.info.query_split
    positions = _positions(subject, len(dataset.index(split)))
    for view in views_of(dataset.info):
        images = dataset.load(split, positions, view).images
        shape = (len(positions), 3, view.crop, view.crop)
        expect(tuple(images.shape) == shape, f"view {view.text}: expected {shape}, found {tuple(images.shape)}")
        expect(images.dtype == torch.float32, f"view {view.text}: expected float32, found {images.dtype}")
        expect(images.device.type == "cpu", f"view {view.text}: expected images on the CPU, found {images.device}")
        low, high = float(images.min()), float(images.max())
        expect(0 <= low <= high <= 1, f"view {view.text}: expected pixels in [0, 1], found {low:.4g} to {high:.4g}")


def check_pixels_independent_of_batching(subject: Subject) -> None:
    """An image's pixels are the same whichever others are loaded with it, and on every call."""
    dataset = _made(subject)
    split = dataset.info.query_split
    positions = _positions(subject, len(dataset.index(split)))
    whole = dataset.load(split, positions, views_of(dataset.info)[0])
    for i, position in enumerate(positions):
        wrong = differing_fields(take_images(whole, [i]), dataset.load(split, [position], views_of(dataset.info)[0]))
        expect(not wrong, f"position {position} loaded alone: expected the same, found other {', '.join(wrong)}")


def check_threads_agree(subject: Subject) -> None:
    """Calls from several threads at once give what one thread gives."""
    dataset = _made(subject)
    split = dataset.info.query_split
    positions = _positions(subject, len(dataset.index(split)))
    expected = {position: dataset.load(split, [position], views_of(dataset.info)[0]) for position in positions}
    fresh = _made(subject)
    work = positions * 4
    with ThreadPoolExecutor(max_workers=4) as pool:
        found = list(pool.map(lambda position: fresh.load(split, [position], views_of(dataset.info)[0]), work))
    for position, batch in zip(work, found, strict=True):
        wrong = differing_fields(expected[position], batch)
        expect(
            not wrong, f"position {position} from one of 4 threads: expected the same, found other {', '.join(wrong)}"
        )


def check_global_randomness_untouched(subject: Subject) -> None:
    """Opening, indexing and loading leave the global random state alone."""
    with global_randomness_untouched("opening"):
        dataset = _made(subject)
    split = dataset.info.query_split
    with global_randomness_untouched("index"):
        size = len(dataset.index(split))
    with global_randomness_untouched("load"):
        dataset.load(split, _positions(subject, size), views_of(dataset.info)[0])


def check_stored_images_not_resized(subject: Subject) -> None:
    """A dataset of images stored ready to use, which has a view of its own, refuses one that resizes them again."""
    dataset = _made(subject)
    own = dataset.info.view
    if own is None:
        raise NotApplicableError("has no view of its own")
    expect(own.resize is None, f"expected a view of its own that resizes nothing, found {own.text}")
    split, again = dataset.info.query_split, View(resize=own.crop + 32, crop=own.crop)
    expect_refusal(DataError, f"load() under {again.text}", lambda: dataset.load(split, [0], again))


CHECKS: tuple[CheckFunction, ...] = (
    check_splits_named,
    check_order_and_fingerprint_stable,
    check_ids_unique,
    check_labels_within_classes,
    check_unknown_split_refused,
    check_loads_what_was_asked,
    check_images_fit_the_view,
    check_stored_images_not_resized,
    check_pixels_independent_of_batching,
    check_threads_agree,
    check_global_randomness_untouched,
)


def _made(subject: Subject) -> Dataset:
    dataset: Dataset = subject.make()
    return dataset


def _positions(subject: Subject, size: int) -> list[int]:
    """Positions spread over a split, in rising order."""
    count = min(subject.sample.positions, size)
    return [i * size // count for i in range(count)]
