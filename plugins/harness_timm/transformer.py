"""How timm's plain transformers are made: what the entries ``vit``, ``deit`` and ``dino`` have in common."""

from __future__ import annotations

from functools import partial
from typing import Any

from harness_timm.build import Family, PositionEmbedding


def transformer_family(
    name: str,
    *,
    distilled: bool,
    second_token: str = "dist",  # noqa: S107  # a token of a transformer, no password
    options: dict[str, Any] | None = None,
) -> Family:
    """How its networks are made and wrapped; imports timm."""
    from timm.models.deit import VisionTransformerDistilled
    from timm.models.vision_transformer import VisionTransformer, checkpoint_filter_fn

    from harness.backbones.vision_transformer import TransformerModel

    return Family(
        name=name,
        classes=(VisionTransformer, VisionTransformerDistilled) if distilled else (VisionTransformer,),
        wrap=partial(TransformerModel, second_token=second_token),
        sized=True,
        options=options or {},
        rename=partial(checkpoint_filter_fn, adapt_layer_scale=True),
        # DINOv2's authors keep the token that stood for masked patches in training.
        unused=("mask_token",) if name == "dino" else (),
        positions=PositionEmbedding(),
    )
