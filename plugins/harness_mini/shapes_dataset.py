"""The generated datasets: every image a pure function of (seed, split, index), with its labels and its exact mask."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Literal

import numpy as np

from harness import views
from harness.errors import DataError
from harness.naming import did_you_mean
from harness.params import canonical, coerce
from harness.protocols import DatasetInfo, SplitIndex
from harness.types import Ids
from harness_mini.generator import outlines, textures
from harness_mini.generator.render import render
from harness_mini.generator.scenes import draw
from harness_mini.shapes import New, NovelParams, Query, ShapesParams

if TYPE_CHECKING:
    import numpy.typing as npt

    from harness.types import ImageBatch, View

GENERATOR_VERSION = 1
"""Raised whenever the same (seed, split, index) gives another picture; it stands in every fingerprint."""

NONE = -1
"""Shape or texture label of an image that shows none of the class shapes or class textures."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Cues:
    """What images show, (N,) int64 each: their class, and whose shape and texture, NONE where those of no class."""

    label: npt.NDArray[np.int64]
    shape: npt.NDArray[np.int64]
    texture: npt.NDArray[np.int64]


@dataclass(frozen=True, slots=True, kw_only=True)
class Split:
    """How the images of a split are drawn.

    ``show``: ``both`` cues for the class; in ``conflict`` every pair of shape and texture in turn, labelled by the
    shape, one in twelve of them no conflict; ``shape`` and ``texture`` alone carry the class: over a texture of the
    ``styles`` or a plain colour, on a shape of no class.
    """

    size: int
    show: Literal["both", "conflict", "stylized", "shape", "texture"]


class GeneratedDataset:
    """Scenes of one object each, drawn when they are asked for, at the size that the view resizes to.

    ``columns`` of a batch: ``shape`` and ``texture``, labels in the order of the classes or -1 for none of theirs, and
    ``conflict``, 1 where the two belong to different classes. ``masks`` are exact: the pixels whose centre lies in the
    object.
    """

    def __init__(
        self,
        info: DatasetInfo,
        splits: Mapping[str, Split],
        *,
        shapes: Sequence[str],
        tiles: Sequence[str],
        seed: int,
        texture_contrast: float = 1.0,
    ) -> None:
        self._info = info
        self._splits = dict(splits)
        self._shapes, self._tiles = tuple(shapes), tuple(tiles)
        self._seed = seed
        self._texture_contrast = texture_contrast
        self._index = lru_cache(maxsize=None)(self._make_index)

    @property
    def info(self) -> DatasetInfo:
        """Classes, splits and fingerprint: that of the generator's version and every parameter."""
        return self._info

    def index(self, split: str) -> SplitIndex:
        """Ids and labels of a split. Raises :class:`~harness.errors.DataError` for an unknown one."""
        self._split(split)
        return self._index(split)

    def load(self, split: str, positions: Sequence[int], view: View) -> ImageBatch:
        """Draw the images at ``positions`` of ``split``, rendered at the size ``view`` resizes to (or crops, if not).

        There is no stored size: 56 pixels and 224 are the same scene at two resolutions, and no interpolation
        happens. Below 42 pixels the smallest clutter blurs into faint streaks. Raises IndexError for a position
        outside the split.
        """
        found = self._split(split)
        wanted = np.array(positions, dtype=np.int64).reshape(-1)
        if len(wanted) and not 0 <= wanted.min() <= wanted.max() < found.size:
            raise IndexError(f"a position of {wanted.tolist()} lies outside split {split!r} of {found.size} images")
        ids = [f"{split}/{position:06d}" for position in wanted.tolist()]
        side = view.crop if view.resize is None else view.resize
        pixels, masks = self._render(found, ids, wanted, side)
        start = round((side - view.crop) / 2)
        window = slice(start, start + view.crop)
        return self._batch(found, pixels[:, :, window, window], masks[:, window, window], ids, wanted)

    def _render(
        self, split: Split, ids: Sequence[str], positions: npt.NDArray[np.int64], side_px: int
    ) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.bool_]]:
        cues = self._cues(split.show, positions)
        stylized = split.show == "stylized"
        scenes = draw(
            self._seed,
            ids,
            styles=len(textures.STYLE_TEXTURES),
            clutter_outlines=len(outlines.NEUTRAL_OUTLINES),
            irregular=stylized,
            texture_contrast=0.0 if split.show == "shape" else self._texture_contrast,
        )
        neutral = split.show == "texture"
        return render(
            scenes,
            outlines=outlines.tables(outlines.NEUTRAL_OUTLINES if neutral else self._shapes),
            outline=_carrier(positions) if neutral else cues.shape,
            tiles=textures.tiles(textures.STYLE_TEXTURES if stylized else self._tiles, side_px),
            tile=scenes.style if stylized else np.maximum(cues.texture, 0),
            side_px=side_px,
        )

    def _batch(
        self,
        split: Split,
        pixels: npt.NDArray[np.uint8],
        masks: npt.NDArray[np.bool_],
        ids: Sequence[str],
        positions: npt.NDArray[np.int64],
    ) -> ImageBatch:
        import torch

        cues = self._cues(split.show, positions)
        conflict = (cues.shape != cues.texture) & (cues.shape != NONE) & (cues.texture != NONE)
        return views.to_batch(
            np.ascontiguousarray(pixels),
            labels=cues.label,
            ids=ids,
            positions=positions,
            masks=torch.from_numpy(np.ascontiguousarray(masks)),
            columns={
                "shape": torch.from_numpy(cues.shape),
                "texture": torch.from_numpy(cues.texture),
                "conflict": torch.from_numpy(conflict.astype(np.int64)),
            },
        )

    def _split(self, name: str) -> Split:
        try:
            return self._splits[name]
        except KeyError:
            raise DataError(
                f"{self._info.name}: no split {name!r}; there are {', '.join(self._splits)}",
                hint=did_you_mean(name, self._splits),
            ) from None

    def _make_index(self, name: str) -> SplitIndex:
        split = self._splits[name]
        positions = np.arange(split.size, dtype=np.int64)
        return SplitIndex(
            ids=Ids(f"{name}/{position:06d}" for position in range(split.size)),
            labels=self._cues(split.show, positions).label,
        )

    def _cues(self, show: str, positions: npt.NDArray[np.int64]) -> Cues:
        """Classes take turns, so that every stretch of a split is balanced."""
        classes = len(self._info.classes)
        label = positions % classes
        none = np.full_like(label, NONE)
        if show == "conflict":
            # Class c is shown once with each texture in every classes x classes images.
            return Cues(label=label, shape=label, texture=(label + positions // classes) % classes)
        return Cues(
            label=label,
            shape=none if show == "texture" else label,
            texture=label if show in ("both", "texture") else none,
        )


def _carrier(positions: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    """The disc, the pebble and the bean in turn: compact shapes of no class."""
    compact = [outlines.NEUTRAL_OUTLINES.index(name) for name in ("disc", "pebble", "bean")]
    return np.array(compact, dtype=np.int64)[positions // len(outlines.CLASS_OUTLINES) % len(compact)]


class Shapes(GeneratedDataset):
    """``shapes``: twelve classes, shape i in texture i, and the same shapes and textures taken apart.

    * ``train``, ``val``, ``test``: shape and texture both tell the class, as in natural images;
    * ``cue_conflict``: every shape in every texture in turn, labelled by its shape; one in twelve agrees
      (Geirhos et al., arXiv 1811.12231, section 2.2 for the idea);
    * ``stylized_train``, ``stylized_val``, ``stylized``: shapes in one of ten irregular textures, which none of the
      classes has and which say nothing of the class: the miniature of Stylized-ImageNet;
    * ``shape_only``: shapes in a plain colour; ``texture_only``: class textures on a disc, a pebble or a bean.
    """

    def __init__(
        self,
        *,
        query: Query = "test",
        texture_contrast: float = 1.0,
        seed: int = 0,
        images: int = 2400,
        train_images: int = 96000,
    ) -> None:
        given = {"query": query, "texture_contrast": texture_contrast, "seed": seed}
        coerce(ShapesParams, {**given, "images": images, "train_images": train_images}, "dataset shapes")
        splits = {
            "train": Split(size=train_images, show="both"),
            "val": Split(size=images, show="both"),
            "test": Split(size=images, show="both"),
            "cue_conflict": Split(size=images, show="conflict"),
            "stylized_train": Split(size=train_images, show="stylized"),
            "stylized_val": Split(size=images, show="stylized"),
            "stylized": Split(size=images, show="stylized"),
            "shape_only": Split(size=images, show="shape"),
            "texture_only": Split(size=images, show="texture"),
        }
        drawn = ShapesParams(
            texture_contrast=texture_contrast, seed=seed, images=images, train_images=train_images
        )  # `query` only says which of the same images are asked about
        info = DatasetInfo(
            name="shapes",
            classes=tuple(
                f"{shape} in {texture}"
                for shape, texture in zip(outlines.CLASS_OUTLINES, textures.CLASS_TEXTURES, strict=True)
            ),
            label_space="shapes",
            splits=tuple(splits),
            query_split=query,
            whole_split=query,
            support_split="stylized_train" if query.startswith("stylized") else "train",
            fingerprint=fingerprint("shapes", canonical(drawn)),
        )
        super().__init__(
            info,
            splits,
            shapes=outlines.CLASS_OUTLINES,
            tiles=textures.CLASS_TEXTURES,
            seed=seed,
            texture_contrast=texture_contrast,
        )


class NovelShapes(GeneratedDataset):
    """``shapes_novel``: ten classes that are not among those of ``shapes``, for probes that learn.

    ``new`` says what is: the ``shapes`` (in the textures of known classes), the ``textures`` (on known shapes) or
    ``both``. Shape and texture both tell the class. Probes learn from ``novel_train`` and are asked about ``novel``.
    """

    def __init__(self, *, new: New = "both", seed: int = 0, images: int = 1000, train_images: int = 4000) -> None:
        given = {"new": new, "seed": seed, "images": images, "train_images": train_images}
        coerce(NovelParams, given, "dataset shapes_novel")
        count = len(outlines.NOVEL_OUTLINES)
        shapes = outlines.CLASS_OUTLINES[:count] if new == "textures" else outlines.NOVEL_OUTLINES
        # Known textures are shifted by one, so that no known shape meets its own class's texture.
        tiles = textures.CLASS_TEXTURES[1 : count + 1] if new == "shapes" else textures.NOVEL_TEXTURES
        label = "shapes and textures" if new == "both" else new
        support, query = f"novel_{new}_train", f"novel_{new}"
        info = DatasetInfo(
            name=f"shapes_novel (new {label})",
            classes=tuple(f"{shape} in {texture}" for shape, texture in zip(shapes, tiles, strict=True)),
            label_space="shapes_novel",
            splits=(support, query),
            query_split=query,
            whole_split=query,
            support_split=support,
            fingerprint=fingerprint(
                "shapes_novel", canonical(NovelParams(new=new, seed=seed, images=images, train_images=train_images))
            ),
        )
        splits = {support: Split(size=train_images, show="both"), query: Split(size=images, show="both")}
        super().__init__(info, splits, shapes=shapes, tiles=tiles, seed=seed)


def fingerprint(name: str, params: Mapping[str, object]) -> str:
    """SHA-256 of the generator's version and a dataset's parameters: all that its images follow from."""
    content = json.dumps({"generator": GENERATOR_VERSION, "dataset": name, "params": params}, sort_keys=True)
    return hashlib.sha256(content.encode()).hexdigest()
