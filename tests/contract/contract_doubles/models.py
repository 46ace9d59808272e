"""Reference models, and doubles that each break one promise of a model."""

from __future__ import annotations

import itertools
from contextlib import contextmanager
from dataclasses import replace

import torch

from contract_doubles.subjects import SAMPLE, doubles_of, subject
from harness.adapters import check_want
from harness.entries import ModelEntry
from harness.errors import CapabilityError
from harness.testing.sample import TinyModel, TinyShape, without
from harness.types import BlockAttention, Capability, View


class GoodModel(TinyModel):
    def __init__(self, *, weights):
        super().__init__(shape=TinyShape(classes=SAMPLE.classes), label_space="sample", seed=weights.seed)


class GoodHeadless(GoodModel):
    """Gives pooled features and nothing else, and no gradients."""

    def __init__(self, *, weights):
        super().__init__(weights=weights)
        self._info = without(self._info, frozenset(Capability) - {Capability.POOLED})

    @torch.no_grad()
    def outputs(self, images, want):
        check_want(self.info, want)
        return super().outputs(images, want)

    def intervene(self, site, fn, *, ids):
        raise CapabilityError("a headless model takes no intervention")


class GoodAttendsLate(GoodModel):
    """Has attention in its last block alone."""

    def __init__(self, *, weights):
        super().__init__(weights=weights)
        self._info = replace(self._info, attention_blocks=(1,))


# --- capabilities ---


class WrongPooledWidth(GoodModel):
    def __init__(self, *, weights):
        super().__init__(weights=weights)
        self._info = replace(self._info, pooled_dim=7)


class AttentionBeforeSoftmax(GoodModel):
    def outputs(self, images, want):
        given = super().outputs(images, want)
        attention = {b: BlockAttention(weights=a.weights.log(), kind=a.kind) for b, a in given.attention.items()}
        return replace(given, attention=attention)


class GivesMore(GoodModel):
    def outputs(self, images, want):
        return super().outputs(images, replace(want, pooled=True))


class GivesUnclaimedLogits(GoodHeadless):
    def outputs(self, images, want):
        if want.logits:
            return GoodModel.outputs(self._full(), images, want)
        return super().outputs(images, want)

    def _full(self):
        full = object.__new__(GoodModel)
        full.__dict__ = {**self.__dict__, "_info": replace(self._info, heads=("head",), num_classes=SAMPLE.classes)}
        full._info = replace(full._info, capabilities=frozenset({Capability.LOGITS}))
        return full


class GivesUnclaimedAttention(GoodAttendsLate):
    def outputs(self, images, want):
        card, self._info = self._info, replace(self._info, attention_blocks=None)
        try:
            return super().outputs(images, want)
        finally:
            self._info = card


class WrapsBlockNumbers(GoodModel):
    def outputs(self, images, want):
        n = self.info.num_blocks
        return super().outputs(images, replace(want, tokens=frozenset(b % n for b in want.tokens)))


# --- one forward pass ---


class RoundsWithAttention(GoodModel):
    """As fused and plain attention kernels do, only more."""

    def outputs(self, images, want):
        return super().outputs(images.bfloat16().float() if want.attention else images, want)


class NormalisesByBatch(GoodModel):
    def outputs(self, images, want):
        given = super().outputs(images, want)
        return given if given.pooled is None else replace(given, pooled=given.pooled - given.pooled.mean(dim=0))


class DropoutLeftOn(GoodModel):
    def __init__(self, *, weights):
        super().__init__(weights=weights)
        self._own = torch.Generator().manual_seed(0)

    def outputs(self, images, want):
        given = super().outputs(images, want)
        kept = {h: x * (torch.rand(x.shape, generator=self._own) > 0.5) for h, x in given.logits.items()}
        return replace(given, logits=kept)


class OtherWeightsEachTime(GoodModel):
    built = itertools.count()

    def __init__(self, *, weights):
        super().__init__(weights=replace(weights, seed=next(self.built)))


class DrawsFromTheGlobalGenerator(GoodModel):
    def outputs(self, images, want):
        torch.rand(1)
        return super().outputs(images, want)


class InitialisesFromTheGlobalGenerator(GoodModel):
    def __init__(self, *, weights):
        torch.manual_seed(weights.seed)
        super().__init__(weights=weights)


class LeftInTrainMode(GoodModel):
    def __init__(self, *, weights):
        super().__init__(weights=weights)
        self.net.train()


class LeftTrainable(GoodModel):
    def __init__(self, *, weights):
        super().__init__(weights=weights)
        self.net.head.weight.requires_grad_(True)


class KeepsRunningStatistics(GoodModel):
    def __init__(self, *, weights):
        super().__init__(weights=weights)
        self.net.register_buffer("running_mean", torch.zeros(3))

    def outputs(self, images, want):
        with torch.no_grad():
            self.net.running_mean.mul_(0.9).add_(images.detach().mean(dim=(0, 2, 3)), alpha=0.1)
        return super().outputs(images, want)


# --- pixels ---


class WorksInPlace(GoodModel):
    def outputs(self, images, want):
        images.data.mul_(0.999)
        return super().outputs(images, want)


class RefusesWhite(GoodModel):
    def outputs(self, images, want):
        if images.max() >= 1:
            raise ValueError("pixels must lie below 1")
        return super().outputs(images, want)


class NormalisesTwice(GoodModel):
    def outputs(self, images, want):
        mean, std = (torch.tensor(v).view(1, 3, 1, 1) for v in (self.info.mean, self.info.std))
        return super().outputs((images - mean) / std, want)


class TakesItsOwnSizeOnly(GoodModel):
    def outputs(self, images, want):
        if images.shape[-1] != self.info.input_size:
            raise ValueError(f"expected {self.info.input_size} pixels")
        return super().outputs(images, want)


class DetachesPooled(GoodModel):
    def outputs(self, images, want):
        given = super().outputs(images, want)
        return given if given.pooled is None else replace(given, pooled=given.pooled.detach())


class GradientsUnclaimed(GoodModel):
    def __init__(self, *, weights):
        super().__init__(weights=weights)
        self._info = without(self._info, frozenset({Capability.GRADIENTS}))


class CachesAnInferenceTensor(GoodModel):
    """As a position embedding that is resized once, and kept."""

    _scale = None

    def outputs(self, images, want):
        if self._scale is None:
            self._scale = torch.ones(3, 1, 1) * 1.0
        return super().outputs(images * self._scale, want)


class MovesToNothing(GoodModel):
    def to(self, device):
        self.net.to(device)


# --- interventions ---


class AcceptsAnySite(GoodModel):
    @contextmanager
    def intervene(self, site, fn, *, ids):
        try:
            with super().intervene(site, fn, ids=ids):
                yield
        except CapabilityError:
            yield


class IntervenesTwice(GoodModel):
    def _at(self, site, x):
        return super()._at(site, super()._at(site, x))


class LosesIds(GoodModel):
    def intervene(self, site, fn, *, ids):
        return super().intervene(site, fn, ids=ids[::-1])


class IgnoresTheIntervention(GoodModel):
    def _at(self, site, x):
        super()._at(site, x)
        return x


class StaysChangedAfterAnException(GoodModel):
    @contextmanager
    def intervene(self, site, fn, *, ids):
        with super().intervene(site, fn, ids=ids):
            inside = dict(self._interventions)
        before, self._interventions = self._interventions, inside
        yield
        self._interventions = before


class NoMove(GoodModel):
    to = None

    def __getattribute__(self, name):
        if name == "to":
            raise AttributeError(name)
        return super().__getattribute__(name)


GOOD = ModelEntry(
    name="tiny",
    target="contract_doubles.models:GoodModel",
    summary="a tiny vision transformer",
    view=View(resize=32, crop=32),
    capabilities=frozenset(Capability),
    label_space="sample",
)
HEADLESS = replace(
    GOOD,
    name="tiny_headless",
    target="contract_doubles.models:GoodHeadless",
    capabilities=frozenset({Capability.POOLED}),
    label_space=None,
)

REFERENCES = {
    "GoodModel": subject(GOOD),
    "GoodHeadless": subject(HEADLESS),
    **doubles_of(GOOD, GoodAttendsLate),
}
DOUBLES = {
    **doubles_of(
        GOOD,
        WrongPooledWidth,
        AttentionBeforeSoftmax,
        GivesMore,
        GivesUnclaimedAttention,
        WrapsBlockNumbers,
        RoundsWithAttention,
        NormalisesByBatch,
        DropoutLeftOn,
        OtherWeightsEachTime,
        DrawsFromTheGlobalGenerator,
        InitialisesFromTheGlobalGenerator,
        LeftInTrainMode,
        LeftTrainable,
        KeepsRunningStatistics,
        WorksInPlace,
        RefusesWhite,
        NormalisesTwice,
        TakesItsOwnSizeOnly,
        DetachesPooled,
        CachesAnInferenceTensor,
        MovesToNothing,
        AcceptsAnySite,
        IntervenesTwice,
        LosesIds,
        IgnoresTheIntervention,
        StaysChangedAfterAnException,
        NoMove,
    ),
    **doubles_of(replace(GOOD, capabilities=GOOD.capabilities - {Capability.GRADIENTS}), GradientsUnclaimed),
    **doubles_of(HEADLESS, GivesUnclaimedLogits),
}
