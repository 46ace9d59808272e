"""Drops guided by saliency: the most salient cells, the rest, and as many cells at random (arXiv 2105.10497)."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from harness import rng
from harness.params import checked
from harness.protocols import Model, PerturbationContext
from harness.types import ImageBatch, LevelSpec, digest
from harness_patchdrop.grids import resolve_grid, to_pixels
from harness_patchdrop.parameters import FillName, Grid
from harness_patchdrop.random_drop import RandomOrder
from harness_patchdrop.replacement import STREAM, Begun, PixelReplacement
from harness_patchdrop.saliency_masks import CellsByMass, cells_by_mass, resampled
from harness_patchdrop.saliency_parameters import (
    BACKGROUND_MASS,
    KEPT_MASS,
    MASS,
    BackgroundAxis,
    DropOf,
    Head,
    MatchedDropParams,
    NonsalientDropParams,
    SaliencyNorm,
    SalientDropParams,
)
from harness_patchdrop.saliency_source import Source, model_identity, source_of
from harness_patchdrop.saliency_store import DiskMaps, MapStore, MemoryMaps

SALIENCY_MASS = "saliency_mass"
"""The share of the saliency that was dropped: at least what was asked of the salient drop, at most of the rest."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SaliencyOrder:
    """What all levels follow from: the cells of ``grid`` by mass, and for drops at random the order of those."""

    by_mass: CellsByMass
    random: RandomOrder | None
    grid: tuple[int, int]
    device: torch.device


@dataclass(frozen=True, slots=True, kw_only=True)
class _Ready:
    """What a context settles: the grid, the source of maps, and where they are kept (None for maps at hand)."""

    grid: tuple[int, int]
    source: Source
    store: MapStore | None


class SaliencyDrop(PixelReplacement):
    """Replace cells that a map of saliency chooses; the level is a share of its mass.

    Every image has one map, computed once and kept between runs where there is a cache: for all levels, seeds and
    variants it is the same. ``realised["saliency_mass"]`` is the share of it that was really dropped.
    """

    def __init__(
        self, name: str, params: SalientDropParams, level: LevelSpec, given: Mapping[str, Model], *, stochastic: bool
    ) -> None:
        super().__init__(name, params, level, stochastic=stochastic)
        self._params = checked(params, name)
        self._given = given
        self._ready: _Ready | None = None

    def prepare(self, context: PerturbationContext) -> None:
        """Find the model of the maps. Raises as :func:`~harness_patchdrop.saliency_source.source_of` does."""
        super().prepare(context)
        grid = resolve_grid(self._params.grid, context.evaluated)
        source = source_of(self._params, self._given, grid, context)
        self._ready = _Ready(grid=grid, source=source, store=_store(source, context))

    def maps(self, state: Begun) -> Mapping[str, Tensor]:
        """The map (N, rows, columns) of each image, in shares of its mass."""
        mass: npt.NDArray[np.int64] = state.order.by_mass.mass
        shares = mass / mass.sum(axis=1, keepdims=True)
        return {"saliency": torch.from_numpy(shares.reshape(-1, *state.order.grid))}

    @abstractmethod
    def _cells(self, order: SaliencyOrder, level: float) -> npt.NDArray[np.bool_]:
        """The cells (N, rows * columns) that a level drops."""

    def _random(self, batch: ImageBatch, grid: tuple[int, int]) -> RandomOrder | None:  # noqa: ARG002 - for subclasses
        return None

    def _order(self, batch: ImageBatch) -> SaliencyOrder:
        if self._ready is None:
            raise RuntimeError(f"{self.info.name}: begin() was called before prepare()")
        grid, source = self._ready.grid, self._ready.source
        found = _maps_of(source, self._ready.store, batch).astype(np.int64)
        return SaliencyOrder(
            by_mass=cells_by_mass(resampled(found, source.grid, grid), batch.ids),
            random=self._random(batch, grid),
            grid=grid,
            device=batch.images.device,
        )

    def _dropped(self, order: SaliencyOrder, level: float, size: tuple[int, int]) -> Tensor:
        return to_pixels(torch.from_numpy(self._cells(order, level)).to(order.device), order.grid, size)

    def _realised(self, batch: ImageBatch, order: SaliencyOrder, level: float) -> Mapping[str, Tensor]:  # noqa: ARG002 - the contract of the class above
        return {SALIENCY_MASS: torch.from_numpy(order.by_mass.share_of(self._cells(order, level)))}


class SalientPatchDrop(SaliencyDrop):
    """Replace the smallest set of cells that holds at least a share Q of the saliency.

    Salient PatchDrop of Naseer et al., "Intriguing Properties of Vision Transformers" (arXiv 2105.10497), section 3.1,
    with these differences: the model of the maps normalises pixels itself (``saliency_norm``), cells that tie come in
    a random order, Q = 1 is everything, and heads are averaged. The authors take head 1 of DINO ViT-S/16, chosen by
    eye; others found that very head to attend to the background. A model's own attention (``saliency="self"``) or
    own gradient (``saliency="gradient"`` with ``gradient_of="self"``) favours no verdict about that model: add a map
    that knows nothing of it, such as a mask or the gradient of another model.

    Q counts mass, not area: half of the saliency may be a tenth of the pixels, see ``information_loss``.
    """

    def __init__(
        self,
        *,
        grid: Grid = (14, 14),
        saliency: str | Model = "dino_mini",
        gradient_of: str | Model = "self",
        head: Head = "mean",
        block: int = -1,
        saliency_norm: SaliencyNorm = "own",
        fill: FillName = "black",
        colour: tuple[float, float, float] = (0.5, 0.5, 0.5),
        blur: float = 0.0625,
    ) -> None:
        params = SalientDropParams(
            grid=grid,
            saliency=_text(saliency),
            gradient_of=_text(gradient_of),
            head=head,
            block=block,
            saliency_norm=saliency_norm,
            fill=fill,
            colour=colour,
            blur=blur,
        )
        given = _given(saliency=saliency, gradient_of=gradient_of)
        super().__init__("patchdrop_salient", params, MASS, given, stochastic=False)

    def _cells(self, order: SaliencyOrder, level: float) -> npt.NDArray[np.bool_]:
        return order.by_mass.salient(level)


class NonsalientPatchDrop(SaliencyDrop):
    """Replace all but the smallest set of cells that holds at least 1 - Q of the saliency: at most Q of it goes.

    Non-salient PatchDrop of arXiv 2105.10497, section 3.1: what it keeps at Q is exactly what
    :class:`SalientPatchDrop` drops at 1 - Q. ``background_axis="kept"`` has the level of the authors' code, 1 - Q.
    """

    def __init__(
        self,
        *,
        grid: Grid = (14, 14),
        saliency: str | Model = "dino_mini",
        gradient_of: str | Model = "self",
        head: Head = "mean",
        block: int = -1,
        saliency_norm: SaliencyNorm = "own",
        fill: FillName = "black",
        colour: tuple[float, float, float] = (0.5, 0.5, 0.5),
        blur: float = 0.0625,
        background_axis: BackgroundAxis = "dropped",
    ) -> None:
        params = NonsalientDropParams(
            grid=grid,
            saliency=_text(saliency),
            gradient_of=_text(gradient_of),
            head=head,
            block=block,
            saliency_norm=saliency_norm,
            fill=fill,
            colour=colour,
            blur=blur,
            background_axis=background_axis,
        )
        level = BACKGROUND_MASS if background_axis == "dropped" else KEPT_MASS
        given = _given(saliency=saliency, gradient_of=gradient_of)
        super().__init__("patchdrop_nonsalient", params, level, given, stochastic=False)
        self._axis = background_axis

    def _cells(self, order: SaliencyOrder, level: float) -> npt.NDArray[np.bool_]:
        if self._axis == "kept":
            return ~order.by_mass.salient(level)
        return order.by_mass.nonsalient(level)


class MatchedPatchDrop(SaliencyDrop):
    """Replace as many cells of each image as a drop by saliency does at the same mass, but random ones.

    The control for area: at equal mass the salient and the non-salient drop remove different areas. The cells of an
    image are the first of its order in ``patchdrop_random`` with the same grid and seed. As many cells are as many
    pixels where the grid divides the image; where it does not, cells and so areas differ, and ``information_loss`` says
    by how much.
    """

    def __init__(
        self,
        *,
        grid: Grid = (14, 14),
        saliency: str | Model = "dino_mini",
        gradient_of: str | Model = "self",
        head: Head = "mean",
        block: int = -1,
        saliency_norm: SaliencyNorm = "own",
        fill: FillName = "black",
        colour: tuple[float, float, float] = (0.5, 0.5, 0.5),
        blur: float = 0.0625,
        of: DropOf = "salient",
    ) -> None:
        params = MatchedDropParams(
            grid=grid,
            saliency=_text(saliency),
            gradient_of=_text(gradient_of),
            head=head,
            block=block,
            saliency_norm=saliency_norm,
            fill=fill,
            colour=colour,
            blur=blur,
            of=of,
        )
        given = _given(saliency=saliency, gradient_of=gradient_of)
        super().__init__("patchdrop_matched", params, MASS, given, stochastic=True)
        self._of = of

    def _random(self, batch: ImageBatch, grid: tuple[int, int]) -> RandomOrder:
        draws = rng.bits(self.context.seed, STREAM, batch.ids, grid[0] * grid[1])
        return RandomOrder(draws=draws, rising=np.sort(draws, axis=1), grid=grid, device=batch.images.device)

    def _cells(self, order: SaliencyOrder, level: float) -> npt.NDArray[np.bool_]:
        assert order.random is not None
        chosen = order.by_mass.salient(level) if self._of == "salient" else order.by_mass.nonsalient(level)
        return order.random.first_of_each(chosen.sum(axis=1))


def _given(**asked: str | Model) -> dict[str, Model]:
    return {name: value for name, value in asked.items() if not isinstance(value, str)}


def _text(value: str | Model) -> str:
    """A model in a parameter's words, which stand in the key of every record: its name, and what it is."""
    if isinstance(value, str):
        return value
    return f"{value.info.name}:{digest(model_identity(value.info))[:16]}"


def _store(source: Source, context: PerturbationContext) -> MapStore | None:
    if source.key is None:
        return None
    cells = source.grid[0] * source.grid[1]
    if context.cache_dir is None:
        return MemoryMaps(cells)
    return DiskMaps(context.cache_dir / "saliency", source.key, cells)


def _maps_of(source: Source, store: MapStore | None, batch: ImageBatch) -> npt.NDArray[np.int32]:
    """The maps (N, cells of the source) of a batch; what was kept counts, and the rest is computed and kept."""
    if store is None:
        return source.maps(batch, range(len(batch)))
    maps, known = store.get(batch.ids)
    if missing := np.flatnonzero(~known).tolist():
        maps[missing] = source.maps(batch, missing)
        store.put([batch.ids[row] for row in missing], maps[missing])
    return maps
