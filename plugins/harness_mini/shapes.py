"""Descriptor of the generated datasets ``shapes`` and ``shapes_novel``."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from harness.entries import DatasetEntry
from harness.hookspecs import hookimpl
from harness.params import param

if TYPE_CHECKING:
    from collections.abc import Iterable

Query = Literal["test", "val", "cue_conflict", "stylized", "stylized_val", "shape_only", "texture_only"]
New = Literal["both", "shapes", "textures"]


@dataclass(frozen=True, slots=True, kw_only=True)
class ShapesParams:
    """Parameters of ``shapes``."""

    query: Query = param(
        "test",
        help="the split that is asked about; probes learn from stylized_train for the stylized splits, else from train",
    )
    texture_contrast: float = param(
        1.0, help="difference between the two colours of an object's texture, of the usual one", low=0, high=1
    )
    seed: int = param(0, help="another seed gives other scenes of the same kind", low=0)
    images: int = param(2400, help="images of every split but the two that are learned from", unit="images", low=12)
    train_images: int = param(96000, help="images of train and of stylized_train", unit="images", low=12)


@dataclass(frozen=True, slots=True, kw_only=True)
class NovelParams:
    """Parameters of ``shapes_novel``."""

    new: New = param("both", help="what the zoo's networks have not seen in training: shapes, textures or both")
    seed: int = param(0, help="another seed gives other scenes of the same kind", low=0)
    images: int = param(1000, help="images of the split that is asked about", unit="images", low=10)
    train_images: int = param(4000, help="images of the split that probes learn from", unit="images", low=10)


@hookimpl
def harness_register_datasets() -> Iterable[DatasetEntry]:
    """Offer ``shapes`` and ``shapes_novel``."""
    yield DatasetEntry(
        name="shapes",
        target="harness_mini.shapes_dataset:Shapes",
        summary="generated scenes of 12 shapes in 12 textures, with exact masks and shape and texture labels",
        params=ShapesParams,
        label_space="shapes",
        tags=("generated",),
    )
    yield DatasetEntry(
        name="shapes_novel",
        target="harness_mini.shapes_dataset:NovelShapes",
        summary="generated scenes of 10 classes with shapes, textures or both that the zoo never saw: for transfer",
        params=NovelParams,
        label_space="shapes_novel",
        tags=("generated",),
    )
