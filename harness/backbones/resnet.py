"""timm's ResNet as a Model: its four stages are its blocks, their maps its patch tokens."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from torch import Tensor

from harness.backbones.network import NetworkModel, map_tokens
from harness.types import BlockTokens, Capability, ModelInfo, ModelOutputs, OutputSpec

_STAGES = ("layer1", "layer2", "layer3", "layer4")


class ResNetModel(NetworkModel):
    """A ResNet of timm.

    Tokens of block i are the map that leaves stage i, a token a place in row-major order, without prefix; width and
    grid differ by stage. There is no final norm, so ``normed_tokens`` are the same. ``pooled`` is the pooled map in
    front of the classifier. Sites: ``stage:i`` sees the map that enters stage i, ``pool`` the one that is pooled.
    """

    def __init__(self, net: Any, card: ModelInfo) -> None:
        """``card``: what is known without the network; the rest is read off here."""
        capabilities = {Capability.POOLED, Capability.TOKENS, Capability.GRADIENTS, Capability.INTERVENTION}
        info = replace(
            card,
            label_space=card.label_space if net.num_classes else None,
            num_classes=net.num_classes or None,
            num_blocks=len(_STAGES),
            embed_dim=net.num_features,
            pooled_dim=net.num_features,
            heads=("head",) if net.num_classes else (),
            capabilities=frozenset(capabilities | ({Capability.LOGITS} if net.num_classes else set())),
        )
        sites = [*(f"stage:{i}" for i in range(len(_STAGES))), "pool"]
        super().__init__(net, info, sites=sites, droppable=False)

    def _forward(self, pixels: Tensor, want: OutputSpec) -> ModelOutputs:
        net = self.net
        tokens: dict[int, BlockTokens] = {}
        wanted = want.tokens | want.normed_tokens
        head = want.logits or want.pooled
        last = len(_STAGES) - 1 if head else max(wanted, default=-1)
        x = net.maxpool(net.act1(net.bn1(net.conv1(pixels))))
        for i, name in enumerate(_STAGES[: last + 1]):
            x = getattr(net, name)(self._enter_map(f"stage:{i}", x))
            if i in wanted:
                tokens[i] = map_tokens(x)
        pooled = net.forward_head(self._enter_map("pool", x), pre_logits=True) if head else None
        return ModelOutputs(
            logits={"head": net.fc(pooled).float()} if want.logits else {},
            pooled=pooled if want.pooled else None,
            tokens={i: tokens[i] for i in want.tokens},
            normed_tokens={i: tokens[i] for i in want.normed_tokens},
        )
