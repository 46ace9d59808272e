"""ResNet with attention pooling: a class token gathers the last map by attention, where an average would be taken."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor, nn
from torchvision.models.resnet import Bottleneck, ResNet

from harness.backbones.initial_values import draw, normal, truncated_normal
from harness.backbones.network import NetworkModel, map_tokens
from harness.backbones.patchconvnet import Aggregation, initialise_layer
from harness.errors import ParameterError
from harness.types import BlockAttention, BlockTokens, Capability, ModelInfo, ModelOutputs, OutputSpec

_STAGES = ("layer1", "layer2", "layer3", "layer4")

RESNET50 = (3, 4, 6, 3)
"""Bottleneck blocks in the stages of ResNet-50 (He et al., CVPR 2016)."""


class AttentionPoolResNet(nn.Module):
    """Normalised pixels (N, 3, H, W) to logits (N, ``num_classes``), float32.

    Touvron et al., "Augmenting Convolutional Networks with Attention-based Aggregation" (arXiv 2112.13692), where
    ResNet-50 gets the aggregation of PatchConvNet instead of average pooling: a transformer block of one head in which
    a class token asks itself and the 49 places of the last map (2048 channels); a layer norm and the linear layer
    follow. At 224 px these are 42.0 million parameters and 0.45 billion multiplications more.

    Stem, stages and linear layer have the names of torchvision's ResNet, which are timm's as well, so that a ResNet
    checkpoint fits where ``cls_token``, ``aggregation.*`` and ``norm.*`` may be missing.

    ``blocks``: bottleneck blocks in each of the four stages. ``layer_scale``: what the branches of the aggregation are
    multiplied by at the start, per channel. ``seed``: of the initial parameters, for which the global random state is
    neither read nor changed.

    Raises :class:`~harness.errors.ParameterError` for sizes that make no network.
    """

    def __init__(
        self,
        *,
        num_classes: int,
        blocks: Sequence[int] = RESNET50,
        layer_scale: float = 1e-4,
        seed: int = 0,
    ) -> None:
        if len(blocks) != len(_STAGES) or min(*blocks, num_classes) < 1:
            raise ParameterError(
                f"AttentionPoolResNet: blocks {tuple(blocks)} and {num_classes} classes make no network",
                hint="give a positive number of blocks for each of the four stages",
            )
        super().__init__()
        device = torch.get_default_device()
        # On the meta device the layers' own initialisers draw nothing from the global generator.
        with torch.device("meta"):
            plain = ResNet(Bottleneck, list(blocks), num_classes=num_classes)
            self.conv1, self.bn1, self.relu, self.maxpool = plain.conv1, plain.bn1, plain.relu, plain.maxpool
            self.layer1, self.layer2, self.layer3, self.layer4 = (plain.get_submodule(name) for name in _STAGES)
            width = plain.fc.in_features
            self.cls_token = nn.Parameter(torch.empty(1, 1, width))
            self.aggregation = Aggregation(width)
            self.norm = nn.LayerNorm(width, eps=self.aggregation.norm1.eps)
            self.fc = nn.Linear(width, num_classes)
        self.num_classes = num_classes
        self.to_empty(device=device)
        if device.type != "meta":
            self._initialise(layer_scale, torch.Generator().manual_seed(seed))

    def forward(self, pixels: Tensor) -> Tensor:
        """The logits; see the class."""
        x = self.stem(pixels)
        for name in _STAGES:
            x = getattr(self, name)(x)
        class_token, _ = self.aggregation(self.class_token(len(x)), x.flatten(2).transpose(1, 2))
        return self.classify(self.norm(class_token[:, 0]))

    def stem(self, pixels: Tensor) -> Tensor:
        """The map (N, 64, H/4, W/4) that enters the first stage."""
        entering: Tensor = self.maxpool(self.relu(self.bn1(self.conv1(pixels))))
        return entering

    def class_token(self, n: int) -> Tensor:
        """The class token (N, 1, D) that enters the aggregation."""
        return self.cls_token.expand(n, -1, -1)

    def classify(self, class_token: Tensor) -> Tensor:
        """Logits (N, C) of class tokens (N, D) after the final norm."""
        logits: Tensor = self.fc(class_token)
        return logits.float()

    @torch.no_grad()
    def _initialise(self, layer_scale: float, generator: torch.Generator) -> None:
        """Convolutions as in He et al. (ICCV 2015), the aggregation and what follows as in transformers."""
        draw(self.cls_token, truncated_normal(generator))
        for part in self.modules():
            if isinstance(part, nn.Conv2d):
                spread = (2 / (part.out_channels * part.weight[0, 0].numel())) ** 0.5
                draw(part.weight, normal(generator, spread))
            elif isinstance(part, nn.BatchNorm2d):
                part.reset_parameters()
            else:
                initialise_layer(part, layer_scale, generator)


class AttentionPoolModel(NetworkModel):
    """An :class:`AttentionPoolResNet` as a Model: its blocks are the four stages and, as the last, the aggregation.

    Tokens of a stage are the map that leaves it, a token a place in row-major order, without prefix; width and grid
    differ by stage. Those of the aggregation are its class token, as prefix, and the places that entered it, which it
    does not change: a class token is there in the last block only, so ``CLASS_TOKEN`` is not claimed. The final norm
    belongs to the aggregation: ``normed_tokens`` of the stages are the same as their tokens. ``pooled`` is the class
    token after the norm. Attention is that of the aggregation, kind ``class``: (N, 1, 1, 1 + places), its first key
    the class token.

    Sites: ``block:i`` sees the tokens that enter stage i or, as the last, the aggregation; ``pool`` sees the map that
    leaves the last stage, ahead of the aggregation's own site and without the class token. None of them can drop
    places.
    """

    def __init__(self, net: AttentionPoolResNet, card: ModelInfo) -> None:
        """``card``: what is known without the network; the rest is read off here."""
        width, self._aggregation = net.cls_token.shape[2], len(_STAGES)
        info = replace(
            card,
            num_classes=net.num_classes,
            num_blocks=len(_STAGES) + 1,
            embed_dim=width,
            pooled_dim=width,
            prefix=("cls",),
            heads=("head",),
            attention_blocks=(self._aggregation,),
            capabilities=frozenset(Capability) - {Capability.CLASS_TOKEN},
        )
        sites = [*(f"block:{i}" for i in range(info.num_blocks)), "pool"]
        super().__init__(net, info, sites=sites, droppable=False)

    def _forward(self, pixels: Tensor, want: OutputSpec) -> ModelOutputs:
        net, end = self.net, self._aggregation
        asked = want.tokens | want.normed_tokens
        tokens: dict[int, BlockTokens] = {}
        last = end if want.logits or want.pooled else max(asked | want.attention, default=-1)
        x = net.stem(pixels)
        for i, name in enumerate(_STAGES[: last + 1]):
            x = getattr(net, name)(self._enter_map(f"block:{i}", x))
            if i in asked:
                tokens[i] = map_tokens(x)
        normed = dict(tokens)
        logits, pooled, attention = {}, None, {}
        if last == end:
            tokens[end], weights = self._aggregate(map_tokens(self._enter_map("pool", x)))
            prefix = net.norm(tokens[end].prefix)
            if end in want.normed_tokens:
                normed[end] = replace(tokens[end], prefix=prefix, patches=net.norm(tokens[end].patches))
            logits = {"head": net.classify(prefix[:, 0])} if want.logits else {}
            pooled = prefix[:, 0] if want.pooled else None
            attention = {i: BlockAttention(weights=weights, kind="class") for i in want.attention}
        return ModelOutputs(
            logits=logits,
            pooled=pooled,
            tokens={i: tokens[i] for i in want.tokens},
            normed_tokens={i: normed[i] for i in want.normed_tokens},
            attention=attention,
        )

    def _aggregate(self, entering: BlockTokens) -> tuple[BlockTokens, Tensor]:
        """The aggregation's tokens and its attention weights, for the map that leaves the last stage."""
        prefix, patches, _ = self._interventions.apply(
            f"block:{self._aggregation}",
            self.net.class_token(len(entering.patches)),
            entering.patches,
            entering.grid,
            None,
        )
        class_token, weights = self.net.aggregation(prefix, patches)
        return BlockTokens(prefix=class_token, patches=patches, grid=entering.grid), weights
