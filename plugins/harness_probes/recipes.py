"""Published recipes for training linear classifiers by stochastic gradient descent, as values."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

RATE_BATCH = 256
"""The batch size that published learning rates refer to: a rate is scaled by batch / 256 where its recipe says so."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Recipe:
    """How a linear head on frozen features is trained.

    ``learning_rates`` are base rates, times batch / 256 where ``scaled``. ``decay``: half a cosine from the rate to
    zero, lowered after every epoch or after every step, or none. ``drop_last``: an incomplete last batch is left out.
    ``weight_decay`` is decoupled from the gradient, as in AdamW. ``initial_std``: of the normal initial weights.
    ``xavier_without_patches``: the initial weights of models without patches are Xavier's uniform ones instead.
    ``selection``: which of the trained heads is reported where the caller does not say.
    """

    optimiser: Literal["sgd", "adamw"]
    learning_rates: tuple[float, ...]
    scaled: bool
    decay: Literal["epoch", "step", "none"]
    epochs: int
    batch_size: int
    drop_last: bool
    weight_decay: float
    initial_std: float
    selection: Literal["last", "best_val"]
    xavier_without_patches: bool = False


RECIPES: dict[str, Recipe] = {
    # facebookresearch/dino, eval_linear.py.
    "dino": Recipe(
        optimiser="sgd",
        learning_rates=(1e-3,),
        scaled=True,
        decay="epoch",
        epochs=100,
        batch_size=256,
        drop_last=False,
        weight_decay=0.0,
        initial_std=0.01,
        selection="last",
    ),
    # facebookresearch/dinov2, dinov2/eval/linear.py; its grid of learning rates, all trained on the same batches.
    "dinov2": Recipe(
        optimiser="sgd",
        learning_rates=(1e-5, 2e-5, 5e-5, 1e-4, 2e-4, 5e-4, 1e-3, 2e-3, 5e-3, 1e-2, 2e-2, 5e-2, 1e-1),
        scaled=True,
        decay="step",
        epochs=10,
        batch_size=256,
        drop_last=False,
        weight_decay=0.0,
        initial_std=0.01,
        selection="best_val",
    ),
    # The probe of Naseer et al., "Intriguing Properties of Vision Transformers", section 3.5, as its code runs: the
    # rate stays constant, and the best accuracy on the test images is reported (``selection=best_test`` here).
    "ipvit": Recipe(
        optimiser="adamw",
        learning_rates=(5e-4,),
        scaled=False,
        decay="none",
        epochs=10,
        batch_size=256,
        drop_last=True,
        weight_decay=0.05,
        initial_std=0.02,
        selection="last",
        xavier_without_patches=True,
    ),
}
"""By name."""
