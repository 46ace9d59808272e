"""What perturbations of inner tokens share: the site they act at, its places, and a random order of these per image."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt
import torch

from harness import rng
from harness.errors import CapabilityError, ParameterError
from harness.params import canonical
from harness.protocols import (
    INFORMATION_LOSS,
    Model,
    PerturbationContext,
    PerturbationInfo,
    SiteTokens,
    SupportsIntervention,
)
from harness.types import Capability, ImageBatch, LevelSpec, OutputSpec, Stage
from harness_patchdrop.mask_scope import mask_groups, mask_ids
from harness_patchdrop.parameters import MaskScope
from harness_patchdrop.random_drop import RandomOrder
from harness_patchdrop.replacement import STREAM
from harness_patchdrop.token_parameters import Before

Change: TypeAlias = Callable[[SiteTokens], SiteTokens]
"""What an intervention does to the tokens that enter its site."""


def unchanged(tokens: SiteTokens) -> SiteTokens:
    """The tokens as they came."""
    return tokens


@dataclass(frozen=True, slots=True, kw_only=True)
class Places:
    """What enters a site of a model: patch tokens on a ``grid`` of rows and columns, after ``prefix`` others."""

    grid: tuple[int, int]
    prefix: int

    @property
    def patches(self) -> int:
        """How many patch tokens."""
        return self.grid[0] * self.grid[1]


def has_site(model: Model, site: str) -> bool:
    """Whether inner tokens of ``model`` can be changed at ``site``."""
    if not isinstance(model, SupportsIntervention):
        return False
    try:
        with model.intervene(site, unchanged, ids=()):
            return True
    except CapabilityError:
        return False


def site_before(model: Model, before: Before, name: str) -> str:
    """The site in front of block ``before``, of the stage of that number where a model has no blocks, or of the pool.

    Blocks and stages count from 0, negative ones from the end. Raises :class:`~harness.errors.CapabilityError`, on
    behalf of the perturbation ``name``, for a model without such a site.
    """
    info = model.info
    if before == "pool":
        if has_site(model, "pool"):
            return "pool"
        raise CapabilityError(
            f"{name}: the tokens of model {info.name} cannot be changed in front of a pool",
            hint="choose a block: before=0, before=-1",
        )
    kind = next((kind for kind in ("block", "stage") if has_site(model, f"{kind}:0")), None)
    if kind is None:
        raise CapabilityError(f"{name}: model {info.name} has neither blocks nor stages whose tokens can be changed")
    count = info.num_blocks
    if not -count <= before < count:
        raise CapabilityError(
            f"{name}: before={before}, but model {info.name} has {count} {kind}s",
            hint=f"they count from 0 to {count - 1}, or from the end, -1 to {-count}",
        )
    return f"{kind}:{before % count}"


def places_at(model: Model, site: str, *, device: torch.device, change: Change = unchanged) -> Places:
    """What enters ``site``, from one forward pass of one black image, with ``change`` at work there.

    Raises what the model raises at a site it has not, or at a change it cannot take.
    """
    seen: list[SiteTokens] = []

    def look(tokens: SiteTokens) -> SiteTokens:
        seen.append(tokens)
        return change(tokens)

    if not isinstance(model, SupportsIntervention):
        raise CapabilityError(f"the inner tokens of model {model.info.name} cannot be changed")
    black = torch.zeros(1, 3, model.info.input_size, model.info.input_size, device=device)
    with torch.no_grad(), model.intervene(site, look, ids=("black",)):
        model.outputs(black, _whole_pass(model))
    if not seen:
        raise CapabilityError(f"no tokens of model {model.info.name} enter {site}")
    return Places(grid=seen[0].grid, prefix=seen[0].prefix.shape[1])


def _whole_pass(model: Model) -> OutputSpec:
    """A want that takes a forward pass to the end."""
    given = model.info.capabilities
    if Capability.LOGITS in given:
        return OutputSpec(logits=True)
    if Capability.POOLED in given:
        return OutputSpec(pooled=True)
    return OutputSpec(tokens=frozenset({model.info.num_blocks - 1}))


@dataclass(frozen=True, slots=True, kw_only=True)
class TokenOrders:
    """Random orders of places for the images of one batch, made once for each grid."""

    seed: int
    keys: tuple[str, ...]
    _made: dict[tuple[int, int], RandomOrder] = field(default_factory=dict)

    def over(self, grid: tuple[int, int]) -> RandomOrder:
        """The order in which ``patchdrop_random`` drops the cells of the same grid; on the CPU."""
        if grid not in self._made:
            draws = rng.bits(self.seed, STREAM, self.keys, grid[0] * grid[1])
            self._made[grid] = RandomOrder(
                draws=draws, rising=np.sort(draws, axis=1), grid=grid, device=torch.device("cpu")
            )
        return self._made[grid]


class SitePerturbation(ABC):
    """A perturbation of the patch tokens that enter one site; subclasses say which site, and what happens there.

    ``realised["information_loss"]`` is the exact share of an image's patch tokens that are lost, as float64. One
    forward pass of one image tells how many there are: when prepared, of the model that is evaluated.
    """

    def __init__(self, name: str, params: Any, level: LevelSpec, *, stage: Stage, mask_scope: MaskScope) -> None:
        self._info = PerturbationInfo(
            name=name, stage=stage, stochastic=True, stream=STREAM, level=level, params=canonical(params)
        )
        self._level = level
        self._mask_scope: MaskScope = mask_scope
        self._context: PerturbationContext | None = None
        self._examined: tuple[Model, str, Places] | None = None

    @property
    def info(self) -> PerturbationInfo:
        """What it is and promises."""
        return self._info

    @property
    def context(self) -> PerturbationContext:
        """What :meth:`prepare` was given."""
        if self._context is None:
            raise RuntimeError(f"{self._info.name}: begin() was called before prepare()")
        return self._context

    def prepare(self, context: PerturbationContext) -> None:
        """Take the seed, and look at the model that is evaluated.

        Raises :class:`~harness.errors.CapabilityError` for a model whose tokens cannot be changed so.
        """
        self._context = context
        self._examined = None
        if context.evaluated is not None:
            self._site_of(context.evaluated)

    def begin(self, batch: ImageBatch) -> TokenOrders:
        """What all levels share."""
        return TokenOrders(seed=self.context.seed, keys=tuple(mask_ids(batch.ids, self._mask_scope, self.context)))

    @contextmanager
    def around(
        self, model: Model, batch: ImageBatch, state: TokenOrders, level: float | None
    ) -> Iterator[tuple[Model, ImageBatch]]:
        """See :meth:`harness.protocols.ModelPerturbation.around`: the model at work, and the images as they are.

        Raises :class:`~harness.errors.ParameterError` for no level or one out of range, and
        :class:`~harness.errors.CapabilityError` for a model whose tokens cannot be changed so.
        """
        name = self._info.name
        if level is None:
            raise ParameterError(f"{name} needs a {self._level.name}", hint=f"{name}@0.5, or @all for the sweep")
        checked = self._level.check(level, name)
        site, places = self._site_of(model)
        lost = self._lost(state.over(places.grid), places, checked)
        # Counted as integers, so the quotient is the same on every device.
        loss = torch.from_numpy(lost.sum(axis=1) / places.patches)
        groups = mask_groups(batch.ids, self._mask_scope, self.context)
        perturbed = batch.with_images(batch.images, **{INFORMATION_LOSS: loss, **groups})
        if not lost.any():
            yield model, perturbed
            return
        assert isinstance(model, SupportsIntervention)
        with model.intervene(site, self._change(lost, batch.images.device), ids=batch.ids):
            yield model, perturbed

    def _site_of(self, model: Model) -> tuple[str, Places]:
        if self._examined is None or self._examined[0] is not model:
            self._examined = (model, *self._examine(model))
        return self._examined[1:]

    @abstractmethod
    def _examine(self, model: Model) -> tuple[str, Places]:
        """The site of ``model`` and what enters it; CapabilityError where there is none."""

    @abstractmethod
    def _lost(self, order: RandomOrder, places: Places, level: float) -> npt.NDArray[np.bool_]:
        """Which patch tokens a level in range takes: (N, patches)."""

    @abstractmethod
    def _change(self, lost: npt.NDArray[np.bool_], device: torch.device) -> Change:
        """What is done to the tokens of a batch on ``device``, of which ``lost`` (N, patches) go."""
