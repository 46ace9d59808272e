"""A dataset as a contact sheet: a few images of every split, one of each class first, with outlines of their masks."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

from harness.report.sheets import SheetRow, Tile, contact_sheet
from harness.sampling import stratified
from harness.types import View

if TYPE_CHECKING:
    from collections.abc import Sequence

    from PIL import Image

    from harness.protocols import Dataset, SplitIndex
    from harness.types import ImageBatch

DEFAULT_VIEW = View(resize=112, crop=112, interpolation="bicubic")
"""No model's own, and small enough for a dozen images side by side."""

DEFAULT_IMAGES = 12


def dataset_sheet(
    dataset: Dataset, *, name: str | None = None, view: View = DEFAULT_VIEW, images: int = DEFAULT_IMAGES
) -> Image.Image:
    """At most ``images`` of every split under ``view``, each over the name of its class.

    ``name`` is what the heading calls the dataset (default: its own name). Raises what the dataset's ``load`` does:
    :class:`~harness.errors.DataError` for an image that cannot be read or is too small for the view.
    """
    rows = [split_row(dataset, split, view=view, images=images) for split in dataset.info.splits]
    heading = f"{name or dataset.info.name}, view {view.text}"
    if any(tile.mask is not None for row in rows for tile in row.tiles):
        heading += "; the lines are the outlines of the masks"
    return contact_sheet(rows, heading=heading)


def split_row(dataset: Dataset, split: str, *, view: View, images: int) -> SheetRow:
    """At most ``images`` of one split, which its title names with its size. Raises as :func:`dataset_sheet` does."""
    index = dataset.index(split)
    title = f"{split}: {len(index):,} image{'' if len(index) == 1 else 's'}"
    positions = spread_positions(index, images)
    if not positions:
        return SheetRow(title=title)
    batch = dataset.load(split, positions, view)
    masks = [None] * len(batch) if batch.masks is None else list(batch.masks.numpy())
    classes = dataset.info.classes
    return SheetRow(
        title=title,
        tiles=tuple(
            Tile(pixels=pixels, mask=mask, caption=caption)
            for pixels, mask, caption in zip(batch.images.numpy(), masks, _captions(batch, classes), strict=True)
        ),
    )


def _captions(batch: ImageBatch, classes: Sequence[str]) -> list[str]:
    """The class of each image; or its cues, where shape and texture are known and do not both belong to the class."""
    captions = [classes[label] for label in batch.labels.tolist()]
    if not {"shape", "texture"} <= batch.columns.keys():
        return captions
    cues = zip(batch.columns["shape"].tolist(), batch.columns["texture"].tolist(), batch.labels.tolist(), strict=True)
    return [
        caption if shape == texture == label else f"{_cue('shape', shape)}, {_cue('texture', texture)}"
        for caption, (shape, texture, label) in zip(captions, cues, strict=True)
    ]


def _cue(name: str, label: int) -> str:
    return f"no {name}" if label < 0 else f"{name} {label}"


def spread_positions(index: SplitIndex, images: int) -> list[int]:
    """Positions of at most ``images`` images spread over a split: one of each class in turn, then a second of each.

    Which image of a class comes follows from the ids alone, as for ``--limit``.
    """
    turns: Counter[int] = Counter()
    places = []
    for position in stratified(index, images).tolist():
        label = int(index.labels[position])
        places.append((turns[label], label, position))
        turns[label] += 1
    return [position for _, _, position in sorted(places)]
