"""Reference perturbations, and doubles that each break one promise of a perturbation."""

from __future__ import annotations

import time
from contextlib import contextmanager
from dataclasses import replace

import numpy as np
import torch

from contract_doubles.subjects import doubles_of, subject
from harness import rng
from harness.entries import PerturbationEntry
from harness.protocols import PerturbationInfo
from harness.types import LevelSpec

RATIO = LevelSpec(name="ratio", values=(0.0, 0.25, 0.5, 0.75), low=0, high=1, identity=0.0, nested=True)
FACTOR = LevelSpec(name="factor", values=(0.0, 0.25, 0.5), low=0, high=1, identity=0.0)
EPS = LevelSpec(name="eps_255", values=(1.0, 2.0), low=0, high=255)
GRID = 4


class GoodOcclusion:
    """Stochastic and nested: some of 4x4 cells go black, other cells for every image."""

    level = RATIO
    stochastic = True
    stream = "occlusion"

    @property
    def info(self):
        return PerturbationInfo(name="occlusion", stochastic=self.stochastic, stream=self.stream, level=self.level)

    def prepare(self, context):
        self.seed = context.seed

    def begin(self, batch):
        return self.ranks(batch)

    def ranks(self, batch):
        return torch.from_numpy(rng.ranks(self.seed, self.stream, batch.ids, GRID * GRID))

    def apply(self, batch, state, level):
        return self.black(batch, state < int(level * GRID * GRID))

    def black(self, batch, dropped):
        side = batch.images.shape[-1] // GRID
        mask = dropped.view(-1, GRID, GRID).repeat_interleave(side, 1).repeat_interleave(side, 2)
        return batch.with_images(batch.images.masked_fill(mask[:, None], 0.0), information_loss=self.loss(dropped))

    def loss(self, dropped):
        return dropped.double().mean(dim=1)


class GoodDimming:
    """Deterministic: every pixel scaled down."""

    stochastic = False
    level = FACTOR

    @property
    def info(self):
        return PerturbationInfo(name="dimming", stochastic=self.stochastic, level=self.level)

    def prepare(self, context):
        self.seed = context.seed

    def begin(self, batch):
        return None

    def apply(self, batch, state, level):
        return batch.with_images(batch.images * (1 - level))


class GoodBlackout:
    """Without levels."""

    @property
    def info(self):
        return PerturbationInfo(name="blackout")

    def prepare(self, context):
        pass

    def begin(self, batch):
        return None

    def apply(self, batch, state, level):
        return batch.with_images(torch.zeros_like(batch.images))


class GoodStep:
    """One signed step against the target's favourite class (the idea of FGSM), in a budget of eps_255 / 255."""

    step = 1.0

    @property
    def info(self):
        return PerturbationInfo(name="step", level=EPS, linf=2 / 255, needs_target=True, keyed=False)

    def prepare(self, context):
        self.target = context.target

    def begin(self, batch):
        images = batch.images.clone().requires_grad_()
        self.target(images).max(dim=1).values.sum().backward()
        return images.grad.sign()

    def apply(self, batch, state, level):
        return batch.with_images((batch.images - self.step * level / 255 * state).clamp(0, 1))


class GoodTokenDrop:
    """Feature stage: patch tokens set to zero before the first block."""

    @property
    def info(self):
        return PerturbationInfo(name="token_drop", stage="feature", stochastic=True, stream="token_drop", level=RATIO)

    def prepare(self, context):
        self.seed = context.seed

    def begin(self, batch):
        return rng.ranks(self.seed, "token_drop", batch.ids, GRID * GRID)

    def zero(self, state, level):
        dropped = torch.from_numpy(state < int(level * GRID * GRID))
        return lambda tokens: replace(tokens, patches=tokens.patches.masked_fill(dropped[:, :, None], 0.0))

    @contextmanager
    def around(self, model, batch, state, level):
        loss = torch.from_numpy((state < int(level * GRID * GRID)).mean(axis=1))
        with model.intervene("block:0", self.zero(state, level), ids=batch.ids):
            yield model, batch.with_images(batch.images, information_loss=loss)


# --- what is kept ---


class LeavesTheRange(GoodDimming):
    def apply(self, batch, state, level):
        return batch.with_images(batch.images - level)


class ShiftsLabels(GoodDimming):
    def apply(self, batch, state, level):
        return replace(super().apply(batch, state, level), labels=batch.labels.roll(1))


class WorksInPlace(GoodOcclusion):
    def black(self, batch, dropped):
        done = super().black(batch, dropped)
        batch.images.copy_(done.images)
        return done


# --- randomness ---


class DrawsAnewEachTime(GoodOcclusion):
    def ranks(self, batch):
        fresh = np.random.default_rng(time.perf_counter_ns())
        return torch.from_numpy(np.stack([fresh.permutation(GRID * GRID) for _ in batch.ids]))


class IgnoresTheSeed(GoodOcclusion):
    def prepare(self, context):
        self.seed = 0


class SecretlyRandom(GoodOcclusion):
    stochastic = False


class OneMaskPerBatch(GoodOcclusion):
    """What the code of "Intriguing Properties of Vision Transformers" does."""

    def ranks(self, batch):
        return super().ranks(batch)[:1].expand(len(batch), -1)


class KeyedByPlaceInBatch(GoodOcclusion):
    def ranks(self, batch):
        places = [str(i) for i in range(len(batch))]
        return torch.from_numpy(rng.ranks(self.seed, self.stream, places, GRID * GRID))


class StretchesByBatch(GoodDimming):
    def apply(self, batch, state, level):
        return batch.with_images(batch.images * (1 - level * float(batch.images.mean())))


class SeedsTheGlobalGenerators(GoodOcclusion):
    def ranks(self, batch):
        torch.manual_seed(self.seed)
        np.random.seed(self.seed)  # noqa: NPY002  # what is to be found
        return super().ranks(batch)


# --- promises about numbers ---


class OversizedStep(GoodStep):
    step = 1.5


class RealisedInSinglePrecision(GoodOcclusion):
    def loss(self, dropped):
        return super().loss(dropped).float()


class RealisedPerBatch(GoodOcclusion):
    def black(self, batch, dropped):
        done = super().black(batch, dropped)
        return replace(done, realised={"mean_loss": done.realised["information_loss"]})


# --- levels ---


class StrengthUpsideDown(GoodDimming):
    def apply(self, batch, state, level):
        return super().apply(batch, state, 0.0 if level == 0 else 0.75 - level)


class NothingAtAll(GoodDimming):
    def apply(self, batch, state, level):
        return batch


class NewMaskPerLevel(GoodOcclusion):
    def begin(self, batch):
        return batch

    def apply(self, batch, state, level):
        ranks = rng.ranks(self.seed, f"{self.stream}@{level}", batch.ids, GRID * GRID)
        return super().apply(batch, torch.from_numpy(ranks), level)


class ReportsWhatIsKept(GoodOcclusion):
    def loss(self, dropped):
        return 1 - super().loss(dropped)


class NearlyIdentity(GoodDimming):
    def apply(self, batch, state, level):
        return super().apply(batch, state, max(level, 1e-3))


class UsesUpItsState(GoodOcclusion):
    def apply(self, batch, state, level):
        done = super().apply(batch, state, level)
        state.copy_(state.flip(1))
        return done


class OtherLevelsThanTheEntry(GoodDimming):
    level = replace(FACTOR, values=(0.0, 0.9))


# --- around a model ---


class LeavesTheModelChanged(GoodTokenDrop):
    @contextmanager
    def around(self, model, batch, state, level):
        self.open = super().around(model, batch, state, level)
        yield self.open.__enter__()
        self.open.__exit__(None, None, None)


class ChangesWeightsForGood(GoodTokenDrop):
    @contextmanager
    def around(self, model, batch, state, level):
        model.net.norm.bias.data.add_(1e-3)
        with super().around(model, batch, state, level) as value:
            yield value


class AppliesInsteadOfSurrounding(GoodTokenDrop):
    around = property()

    def apply(self, batch, state, level):
        return batch


def _entry(name: str, cls: type, **facts: object) -> PerturbationEntry:
    return PerturbationEntry(name=name, target=f"{__name__}:{cls.__name__}", summary=f"{name} for the tests", **facts)


OCCLUSION = _entry("occlusion", GoodOcclusion, stochastic=True, level=RATIO, loss="information_loss")
DIMMING = _entry("dimming", GoodDimming, level=FACTOR)
BLACKOUT = _entry("blackout", GoodBlackout)
STEP = _entry("step", GoodStep, level=EPS, needs_target=True)
TOKEN_DROP = _entry("token_drop", GoodTokenDrop, stage="feature", stochastic=True, level=RATIO, loss="information_loss")

REFERENCES = {
    "GoodOcclusion": subject(OCCLUSION),
    "GoodDimming": subject(DIMMING),
    "GoodBlackout": subject(BLACKOUT),
    "GoodStep": subject(STEP),
    "GoodTokenDrop": subject(TOKEN_DROP),
}
DOUBLES = {
    **doubles_of(
        OCCLUSION,
        WorksInPlace,
        DrawsAnewEachTime,
        IgnoresTheSeed,
        OneMaskPerBatch,
        KeyedByPlaceInBatch,
        SeedsTheGlobalGenerators,
        RealisedInSinglePrecision,
        RealisedPerBatch,
        NewMaskPerLevel,
        ReportsWhatIsKept,
        UsesUpItsState,
    ),
    **doubles_of(replace(OCCLUSION, stochastic=False), SecretlyRandom),
    **doubles_of(
        DIMMING,
        LeavesTheRange,
        ShiftsLabels,
        StretchesByBatch,
        StrengthUpsideDown,
        NothingAtAll,
        NearlyIdentity,
        OtherLevelsThanTheEntry,
    ),
    **doubles_of(STEP, OversizedStep),
    **doubles_of(TOKEN_DROP, LeavesTheModelChanged, ChangesWeightsForGood, AppliesInsteadOfSurrounding),
}
