"""Patch tokens taken out of a transformer's sequence: what PatchDrop blackens, the model never sees."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import numpy.typing as npt
import torch

from harness.errors import CapabilityError
from harness.params import checked
from harness.protocols import Model, SiteTokens
from harness_patchdrop.grids import drop_count
from harness_patchdrop.parameters import MaskScope
from harness_patchdrop.random_drop import RandomOrder
from harness_patchdrop.sites import Change, Places, SitePerturbation, places_at
from harness_patchdrop.token_parameters import TOKEN_RATIO, TokenDropParams

_SITE = "block:0"


class TokenDrop(SitePerturbation):
    """Remove floor(ratio * patches) random patch tokens of each image before a transformer's first block.

    The tokens that stay keep their position embeddings and their order, and the model attends to fewer of them, which
    is faster too. Images lose the patches that ``patchdrop_random`` blackens on a grid of the same size, so that
    absence and blackness of the same patches can be compared. For one image the patches of a lower ratio are among
    those of every higher one; one at least always stays. ``realised["information_loss"]`` is the share removed.
    """

    def __init__(self, *, mask_scope: MaskScope = "image") -> None:
        params = checked(TokenDropParams(mask_scope=mask_scope), "tokendrop")
        super().__init__("tokendrop", params, TOKEN_RATIO, stage="model", mask_scope=params.mask_scope)

    def _examine(self, model: Model) -> tuple[str, Places]:
        try:
            return _SITE, places_at(model, _SITE, device=self.context.device, change=_first_patch)
        except CapabilityError as error:
            info = model.info
            raise CapabilityError(
                f"tokendrop takes patch tokens out of a transformer's sequence, but model {info.name} (family "
                f"{info.family}) cannot do without any of its patches",
                hint="use patchdrop_random, which blackens the same cells of the image, or lesion, which sets tokens "
                "to zero",
            ) from error

    def _lost(self, order: RandomOrder, places: Places, level: float) -> npt.NDArray[np.bool_]:
        return order.first(drop_count(level, places.patches)).numpy()

    def _change(self, lost: npt.NDArray[np.bool_], device: torch.device) -> Change:
        # Row-major, so that each image's indices rise; every image keeps as many as the others.
        kept = torch.from_numpy(np.nonzero(~lost)[1].reshape(len(lost), -1)).to(device)

        def drop(tokens: SiteTokens) -> SiteTokens:
            return replace(tokens, patches=tokens.patches.take_along_dim(kept[:, :, None], dim=1), kept=kept)

        return drop


def _first_patch(tokens: SiteTokens) -> SiteTokens:
    kept = torch.zeros(len(tokens.patches), 1, dtype=torch.int64, device=tokens.patches.device)
    return replace(tokens, patches=tokens.patches[:, :1], kept=kept)
