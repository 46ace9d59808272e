"""What a network is trained to do: know the labels, agree with a teacher, or agree with itself."""

from __future__ import annotations

import copy
import math
from collections.abc import Iterator
from typing import Any, Protocol, cast

import torch
from torch import Tensor, nn
from torch.nn import functional

from harness import rng
from harness.types import ImageBatch
from harness_mini.networks import CELLS
from harness_mini.training.lessons import (
    Lesson,
    final_tokens,
    heads,
    to_device,
    whole,
    window,
    window_about_object,
)
from harness_mini.training.recipes import Recipe


class Objective(Protocol):
    """A loss over batches, with whatever it has to learn or to remember besides the network."""

    module: nn.Module
    """Parameters and buffers of the objective itself; part of every checkpoint."""

    def loss(self, batch: ImageBatch, *, windows: bool, step: int) -> Tensor:
        """The loss of one batch, a scalar."""
        ...

    def after_step(self, progress: float) -> None:
        """What follows the optimiser's step; ``progress`` in [0, 1]."""
        ...


class Labels:
    """Cross-entropy with the labels, at every head of the network."""

    def __init__(self, net: nn.Module, recipe: Recipe, device: torch.device) -> None:
        self.module: nn.Module = nn.Module()
        self._net, self._recipe, self._device = net, recipe, device

    def loss(self, batch: ImageBatch, *, windows: bool, step: int) -> Tensor:  # noqa: ARG002  # the protocol's
        """See :class:`Objective`."""
        lesson = self._lesson(batch, windows=windows)
        losses = [functional.cross_entropy(scores, lesson.labels) for scores in heads(self._net, lesson)]
        return torch.stack(losses).mean()

    def after_step(self, progress: float) -> None:
        """Nothing."""

    def _lesson(self, batch: ImageBatch, *, windows: bool) -> Lesson:
        cells, seed = self._recipe.window_cells, self._recipe.seed
        return to_device(window_about_object(batch, cells, seed=seed) if windows else whole(batch), self._device)


class SoftDistillation(Labels):
    """DeiT's distillation (Touvron et al., ICML 2021, section 4), soft: the class token learns the labels, the second
    token the teacher's probabilities, both with weight one half.

    The loss of the second is T^2 KL(teacher_T || student_T) of :class:`Recipe`'s temperature T. The hard variant, which
    learns the teacher's most likely class, would learn the labels once more: the teacher names them nearly always.
    """

    def __init__(self, net: nn.Module, recipe: Recipe, device: torch.device, teacher: nn.Module) -> None:
        super().__init__(net, recipe, device)
        self._teacher = teacher.to(device).eval().requires_grad_(False)

    def loss(self, batch: ImageBatch, *, windows: bool, step: int) -> Tensor:  # noqa: ARG002  # the protocol's
        """See :class:`Objective`."""
        lesson = self._lesson(batch, windows=windows)
        by_class, by_second = heads(self._net, lesson)
        temperature = self._recipe.temperature
        with torch.no_grad():
            (taught,) = heads(self._teacher, lesson)
            target = functional.log_softmax(taught / temperature, dim=1)
        learned = functional.log_softmax(by_second / temperature, dim=1)
        distance = functional.kl_div(learned, target, reduction="batchmean", log_target=True) * temperature**2
        return (functional.cross_entropy(by_class, lesson.labels) + distance) / 2


class SelfDistillation:
    """DINO (Caron et al., ICCV 2021): windows of an image must look alike to the network and its moving average.

    The average sees two large windows, the network those and four small ones, each in other colours; the network's
    prototypes for one window are to match the average's for another. The average's scores are centred and sharpened,
    which keeps both from collapse (section 3.1 there). No labels and no masks are used.
    """

    LARGE_CELLS = 10
    SMALL_CELLS = 7
    SMALL = 4
    PROTOTYPES = 512
    STUDENT_TEMPERATURE = 0.1
    TEACHER_TEMPERATURE = 0.04
    CENTRE_MOMENTUM = 0.9
    AVERAGE_MOMENTUM = 0.99

    def __init__(self, net: nn.Module, recipe: Recipe, device: torch.device) -> None:
        width = int(cast(Any, net).embed_dim)
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(recipe.seed + 1)
            projection = _projection(width, self.PROTOTYPES)
        self.module: nn.Module = nn.ModuleDict(
            {
                "projection": projection,
                "average": copy.deepcopy(net),
                "average_projection": copy.deepcopy(projection),
                "centre": _Centre(self.PROTOTYPES),
            }
        ).to(device)
        for name in ("average", "average_projection", "centre"):
            self._part(name).requires_grad_(False)
        self._net, self._recipe, self._device = net, recipe, device

    def loss(self, batch: ImageBatch, *, windows: bool, step: int) -> Tensor:  # noqa: ARG002  # the protocol's
        """See :class:`Objective`."""
        large = [self._view(batch, f"large{i}", self.LARGE_CELLS) for i in range(2)]
        small = [self._view(batch, f"small{i}", self.SMALL_CELLS) for i in range(self.SMALL)]
        centre = cast(_Centre, self._part("centre"))
        with torch.no_grad():
            raw = [self._scores(self._part("average"), self._part("average_projection"), view) for view in large]
            targets = [((scores - centre.value) / self.TEACHER_TEMPERATURE).softmax(dim=1) for scores in raw]
            centre.value.lerp_(torch.cat(raw).mean(dim=0), 1 - self.CENTRE_MOMENTUM)
        losses = []
        for j, scores in enumerate(self._student(large, small)):
            learned = functional.log_softmax(scores / self.STUDENT_TEMPERATURE, dim=1)
            losses += [-(target * learned).sum(dim=1).mean() for i, target in enumerate(targets) if i != j]
        return torch.stack(losses).mean()

    @torch.no_grad()
    def after_step(self, progress: float) -> None:
        """Move the average towards the network, ever more slowly."""
        momentum = 1 - (1 - self.AVERAGE_MOMENTUM) * (1 + math.cos(math.pi * progress)) / 2
        pairs = [(self._net, self._part("average")), (self._part("projection"), self._part("average_projection"))]
        for student, average in pairs:
            for mine, other in zip(average.parameters(), student.parameters(), strict=True):
                mine.lerp_(other, 1 - momentum)

    def _student(self, large: list[Lesson], small: list[Lesson]) -> Iterator[Tensor]:
        for group in (large, small):
            scores = self._scores(self._net, self._part("projection"), _joined(group))
            yield from scores.chunk(len(group))

    def _scores(self, net: nn.Module, projection: nn.Module, view: Lesson) -> Tensor:
        return cast(Tensor, projection(final_tokens(net, view)[:, 0]))

    def _part(self, name: str) -> nn.Module:
        return cast(nn.ModuleDict, self.module)[name]

    def _view(self, batch: ImageBatch, name: str, cells: int) -> Lesson:
        """A window anywhere in the image, in other colours; keyed by the image."""
        draws = torch.from_numpy(rng.uniforms(self._recipe.seed, f"mini.dino.{name}", batch.ids, 11)).float()
        corner = (draws[:, :2] * (CELLS - cells + 1)).long()
        view = window(batch, corner, cells)
        # Mixed channels, another contrast and brightness: the object stays, its colours do not. Contrast and brightness
        # share two draws with the mixture; the shipped network was trained so.
        mix = draws[:, 2:11].view(-1, 3, 3)
        mix = mix / mix.sum(dim=2, keepdim=True)
        gain = 0.7 + 0.6 * draws[:, 2].view(-1, 1, 1, 1)
        shift = 0.8 * (draws[:, 6].view(-1, 1, 1, 1) - 0.5)
        pixels = torch.einsum("nij,njhw->nihw", mix, view.pixels) * gain + shift
        return to_device(Lesson(pixels=pixels, labels=view.labels, corner=corner), self._device)


class _Centre(nn.Module):
    value: Tensor

    def __init__(self, width: int) -> None:
        super().__init__()
        self.register_buffer("value", torch.zeros(width))


class _Prototypes(nn.Module):
    """Cosine to each prototype."""

    def __init__(self, width: int, count: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(count, width))

    def forward(self, x: Tensor) -> Tensor:
        return functional.linear(functional.normalize(x, dim=1), functional.normalize(self.weight, dim=1))


def _projection(width: int, prototypes: int) -> nn.Module:
    return nn.Sequential(
        nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width), _Prototypes(width, prototypes)
    )


def _joined(views: list[Lesson]) -> Lesson:
    corners = [view.corner for view in views if view.corner is not None]
    return Lesson(
        pixels=torch.cat([view.pixels for view in views]),
        labels=torch.cat([view.labels for view in views]),
        corner=torch.cat(corners) if corners else None,
    )
