"""Descriptor of the zoo: small networks trained on ``shapes``, whose weights ship with the package."""

from __future__ import annotations

from typing import TYPE_CHECKING

from harness.entries import ModelEntry
from harness.hookspecs import hookimpl
from harness.model_params import STAGED
from harness.types import Capability, View
from harness_mini.cards import shipped_digest

if TYPE_CHECKING:
    from collections.abc import Iterable

VIEW = View(crop=56)

_EVERYTHING = frozenset(Capability)
_AGGREGATING = _EVERYTHING - {Capability.CLASS_TOKEN}

_MODELS = (
    ("vit_mini", _EVERYTHING, "vision transformer of 6 blocks"),
    ("vit_mini_nopos", _EVERYTHING, "vit_mini trained without position embeddings"),
    ("vit_mini_sin", _EVERYTHING, "vit_mini trained on stylized shapes, whose texture says nothing"),
    ("deit_mini", _EVERYTHING, "vit_mini with a distillation token, taught by cnn_mini"),
    ("deit_mini_shape", _EVERYTHING, "vit_mini with a shape token, taught by cnn_mini_sin on natural shapes"),
    ("dino_mini", _EVERYTHING - {Capability.LOGITS}, "vit_mini without a head, self-distilled without labels"),
    ("cnn_mini", STAGED, "residual network of four stages"),
    ("cnn_mini_sin", STAGED, "cnn_mini trained on stylized shapes"),
    ("patchconv_mini", _AGGREGATING, "PatchConvNet: 8 blocks and one attention-pooling token"),
    ("patchconv_mini_multi", _AGGREGATING - {Capability.POOLED}, "patchconv_mini with a pooling token per class"),
)


def entries() -> tuple[ModelEntry, ...]:
    """Every model of the zoo, with the digests of the weights that the package holds."""
    return tuple(
        ModelEntry(
            name=name,
            target=f"harness_mini.models:{name}",
            summary=f"{summary}; for 56 px, trained on the generated shapes",
            tags=("mini", "embedded"),
            view=VIEW,
            label_space="shapes" if Capability.LOGITS in capabilities else None,
            capabilities=capabilities,
            embedded_sha256=shipped_digest(name),
        )
        for name, capabilities, summary in _MODELS
    )


@hookimpl
def harness_register_models() -> Iterable[ModelEntry]:
    """Offer every model of the zoo."""
    yield from entries()
