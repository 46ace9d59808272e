"""Lesions: random inner tokens set to zero before one block, stage or pool (arXiv 2105.10497, appendix C)."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import numpy.typing as npt
import torch

from harness.errors import ParameterError
from harness.params import checked
from harness.protocols import Model, SiteTokens
from harness_patchdrop.grids import drop_count
from harness_patchdrop.parameters import MaskScope
from harness_patchdrop.random_drop import RandomOrder
from harness_patchdrop.sites import Change, Places, SitePerturbation, places_at, site_before
from harness_patchdrop.token_parameters import LESION_RATE, Before, LesionCount, LesionDraw, LesionParams


class Lesion(SitePerturbation):
    """Set random patch tokens to zero before one block of a transformer, or positions before one stage of a CNN.

    Naseer et al., "Intriguing Properties of Vision Transformers" (arXiv 2105.10497), appendix C. Prefix tokens stay
    as they are. ``before`` counts blocks or stages from 0, negative from the end; their tables count from 1, and for
    ResNet50 their "layer 5" is ``pool``. At their rates floor(rate * patches) of 196 patches are the 49, 98 and 147
    which their code gets from all 197 tokens (``count="tokens"``); on other grids the two differ.

    ``draw="bernoulli"`` loses each position whose own uniform number does not exceed the rate, as their code does for
    ResNet; positions are lost in the same order either way. Their one mask per batch is ``mask_scope="batch"``.
    For one image the tokens of a lower rate are among those of every higher one. ``realised["information_loss"]`` is
    the exact share of patch tokens set to zero.

    Raises :class:`~harness.errors.ParameterError` for a ``count`` of ``tokens`` where none is counted.
    """

    def __init__(
        self,
        *,
        before: Before = 0,
        count: LesionCount = "patches",
        draw: LesionDraw = "exact",
        mask_scope: MaskScope = "image",
    ) -> None:
        given = LesionParams(before=before, count=count, draw=draw, mask_scope=mask_scope)
        params = checked(given, "lesion")
        if draw == "bernoulli" and count == "tokens":
            raise ParameterError(
                "lesion: count=tokens has no meaning with draw=bernoulli, which counts nothing",
                hint="leave out one of the two",
            )
        super().__init__("lesion", params, LESION_RATE, stage="feature", mask_scope=params.mask_scope)
        self._before: Before = params.before
        self._count = params.count
        self._draw = params.draw

    def _examine(self, model: Model) -> tuple[str, Places]:
        site = site_before(model, self._before, "lesion")
        return site, places_at(model, site, device=self.context.device)

    def _lost(self, order: RandomOrder, places: Places, level: float) -> npt.NDArray[np.bool_]:
        if self._draw == "bernoulli":
            # 53 of the random bits are the uniform number of harness.rng.uniforms for the same key.
            return (order.draws >> np.uint64(11) <= math.floor(level * 2**53)) & (level > 0)
        counted = places.patches + (places.prefix if self._count == "tokens" else 0)
        return order.first(drop_count(level, counted)).numpy()

    def _change(self, lost: npt.NDArray[np.bool_], device: torch.device) -> Change:
        zeroed = torch.from_numpy(lost).to(device)[:, :, None]

        def zero(tokens: SiteTokens) -> SiteTokens:
            return replace(tokens, patches=tokens.patches.masked_fill(zeroed, 0.0))

        return zero
