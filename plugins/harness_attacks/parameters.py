"""Parameters and strength axes of the native attacks, light enough to be read without torch."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, TypeAlias

from harness.errors import ParameterError
from harness.params import param
from harness.types import LevelSpec

EPS_255 = LevelSpec(
    name="eps_255", unit="1/255", values=(0.0, 0.5, 1.0, 2.0, 4.0, 8.0), low=0.0, high=100_000.0, identity=0.0
)
"""The strength axis: the budget of each pixel (l-inf) or of the whole image (l2), in 255ths of the range [0, 1]."""

PATCH_AREA = LevelSpec(name="area", unit="of the image", values=(0.05, 0.15, 0.25), low=0.0, high=1.0, identity=0.0)
"""The strength axis of a patch: the fraction of the image that it covers."""

AttackTarget: TypeAlias = Literal["head", "probe"]
Norm: TypeAlias = Literal["linf", "l2"]
Goal: TypeAlias = Literal["untargeted", "least_likely", "random", "next"]
Loss: TypeAlias = Literal["cross_entropy", "margin"]
Select: TypeAlias = Literal["last", "any"]
AttackPrecision: TypeAlias = Literal["fp32", "bf16", "fp16"]


@dataclass(frozen=True, slots=True, kw_only=True)
class TargetParams:
    """What an attack aims at."""

    attack_target: AttackTarget = param(
        "head", help="what it aims at: the model's own head, or the probe that is then asked (--attack-target sets it)"
    )
    source: str | None = param(
        None, help="the model whose head it is crafted on, for a transfer attack; by default the evaluated one"
    )
    goal: Goal = param(
        "untargeted",
        help="away from the true class, or towards the class the target finds least likely, a random other one, or "
        "the next one",
    )
    loss: Loss = param("cross_entropy", help="what is raised: cross-entropy, or the margin of Carlini and Wagner")
    precision: AttackPrecision = param("fp32", help="precision of the attack's own forward and backward passes")


@dataclass(frozen=True, slots=True, kw_only=True)
class GradientParams(TargetParams):
    """Parameters of ``fgsm``."""

    norm: Norm = param(
        "linf",
        help="the norm whose ball holds the change; linf ends at 255, and l2, the length of the whole change, needs "
        "levels such as 128 or 765 that are not in the sweep",
    )
    quantise: bool = param(
        False, help="cut the change to whole 255ths, towards the image, so that an 8-bit file can hold the result"
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class PGDParams(GradientParams):
    """Parameters of ``pgd``."""

    steps: int = param(5, help="steps", low=1, high=100_000)
    step_255: float | None = param(None, help="step size; by default half of eps", unit="1/255", low=0)
    random_start: bool = param(True, help="start at a random point of the ball instead of at the image")
    restarts: int = param(1, help="random starts, of which each image keeps its best", low=1, high=1000)
    select: Select = param(
        "last",
        help="what counts as the attack's result: its last iterate, or any iterate that is misclassified, the image "
        "itself included",
    )
    early_stop: bool = param(
        False, help="stop on an image as soon as it is misclassified; needs select=any, whose result it does not change"
    )

    def __post_init__(self) -> None:
        if self.early_stop and self.select != "any":
            raise ParameterError(
                f"pgd: early_stop=true needs select=any, not select={self.select}",
                hint="stopping where the target is first wrong is no way to the last iterate",
            )
        if self.restarts > 1 and not self.random_start:
            raise ParameterError(
                f"pgd: restarts={self.restarts} with random_start=false would climb from the same point each time",
                hint="leave out one of the two",
            )


@dataclass(frozen=True, slots=True, kw_only=True)
class MIFGSMParams(GradientParams):
    """Parameters of ``mifgsm``."""

    steps: int = param(10, help="steps", low=1, high=100_000)
    step_255: float | None = param(None, help="step size; by default eps / steps", unit="1/255", low=0)
    decay: float = param(1.0, help="decay of the momentum", low=0)


@dataclass(frozen=True, slots=True, kw_only=True)
class PatchParams(TargetParams):
    """Parameters of ``adversarial_patch``."""

    target_class: int | None = param(
        None,
        help="the class it is trained towards, by its number; by default it is trained away from the true one",
        low=0,
    )
    shape: Literal["square", "disk"] = param("square", help="the patch's outline")
    placement: Literal["random", "centre", "corner"] = param(
        "random", help="where it is laid: anywhere, other for every image; or in the middle or the top left corner"
    )
    train_images: int = param(256, help="support images it is trained on, the same number of each class", low=1)
    epochs: int = param(8, help="passes over them", low=1, high=10_000)
    step: float = param(0.05, help="step of the sign of the mean gradient", unit="of the range [0, 1]", low=0, high=1)
