"""The ResNets for CIFAR-10 (He et al., CVPR 2016, section 4.2): 6n + 2 layers, shortcuts without weights."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from harness.backbones.initial_values import draw, normal, uniform
from harness.backbones.staged import StagedModel, Stages
from harness.errors import ParameterError
from harness.types import ModelInfo

_WIDTHS = (16, 32, 64)


class CifarResNet(nn.Module):
    """Normalised pixels (N, 3, H, W) to logits (N, ``num_classes``); the names are those of its common checkpoints.

    ``depth``: 6n + 2 layers, such as 20, 32, 44, 56 or 110. Shortcuts between stages skip every other place and fill
    the new channels with zeros (the paper's option A). ``seed``: of the initial parameters, for which the global random
    state is neither read nor changed. Raises :class:`~harness.errors.ParameterError` for another depth.
    """

    def __init__(self, *, depth: int, num_classes: int = 10, seed: int = 0) -> None:
        super().__init__()
        blocks, rest = divmod(depth - 2, 6)
        if rest or blocks < 1:
            raise ParameterError(f"a ResNet for CIFAR has 6n + 2 layers, not {depth}", hint="for example 20 or 56")
        self.num_classes = num_classes
        device = torch.get_default_device()
        # On the meta device the layers' own initialisers draw nothing from the global generator.
        with torch.device("meta"):
            self.conv1 = nn.Conv2d(3, _WIDTHS[0], 3, padding=1, bias=False)
            self.bn1 = nn.BatchNorm2d(_WIDTHS[0])
            self.layer1 = _stage(_WIDTHS[0], _WIDTHS[0], blocks, stride=1)
            self.layer2 = _stage(_WIDTHS[0], _WIDTHS[1], blocks, stride=2)
            self.layer3 = _stage(_WIDTHS[1], _WIDTHS[2], blocks, stride=2)
            self.linear = nn.Linear(_WIDTHS[2], num_classes)
        self.to_empty(device=device)
        if device.type != "meta":
            self._initialise(torch.Generator().manual_seed(seed))

    def forward(self, pixels: Tensor) -> Tensor:
        """The logits; see the class."""
        x = self.layer3(self.layer2(self.layer1(self.stem(pixels))))
        logits: Tensor = self.linear(x.mean(dim=(2, 3)))
        return logits

    def stem(self, pixels: Tensor) -> Tensor:
        """The map (N, 16, H, W) that enters the first stage."""
        return functional.relu(self.bn1(self.conv1(pixels)))

    def _initialise(self, generator: torch.Generator) -> None:
        """Convolutions as He et al. (ICCV 2015) draw them, the classifier as torch does."""
        for part in self.modules():
            if isinstance(part, nn.Conv2d):
                draw(part.weight, normal(generator, (2 / part.weight[0].numel()) ** 0.5))
            elif isinstance(part, nn.BatchNorm2d):
                part.reset_running_stats()
                part.reset_parameters()
            elif isinstance(part, nn.Linear):
                for value in (part.weight, part.bias):
                    draw(value, uniform(generator, part.in_features**-0.5))


class CifarResNetModel(StagedModel):
    """A :class:`CifarResNet` as a Model: its three stages are its blocks."""

    def __init__(self, net: CifarResNet, card: ModelInfo) -> None:
        """``card``: what is known without the network; the rest is read off here."""
        stages = Stages(
            stem=net.stem,
            stages=(net.layer1, net.layer2, net.layer3),
            pool=lambda x: x.mean(dim=(2, 3)),
            classify=net.linear,
            embed_dim=_WIDTHS[2],
            pooled_dim=_WIDTHS[2],
            num_classes=net.num_classes,
        )
        super().__init__(net, card, stages)


class _Block(nn.Module):
    """Two 3 x 3 convolutions beside a shortcut without parameters."""

    def __init__(self, entering: int, leaving: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(entering, leaving, 3, stride=stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(leaving)
        self.conv2 = nn.Conv2d(leaving, leaving, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(leaving)
        self._stride, self._new = stride, leaving - entering

    def forward(self, x: Tensor) -> Tensor:
        branch = self.bn2(self.conv2(functional.relu(self.bn1(self.conv1(x)))))
        shortcut = x[:, :, :: self._stride, :: self._stride]
        # Zeros on both sides: the old channels end up in the middle of the new ones.
        shortcut = functional.pad(shortcut, (0, 0, 0, 0, self._new // 2, self._new - self._new // 2))
        return functional.relu(branch + shortcut)


def _stage(entering: int, leaving: int, blocks: int, *, stride: int) -> nn.Sequential:
    rest = (_Block(leaving, leaving, 1) for _ in range(blocks - 1))
    return nn.Sequential(_Block(entering, leaving, stride), *rest)
