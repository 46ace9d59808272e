"""An attack of torchattacks as a perturbation: the target wrapped, randomness keyed, the result held to its budget."""

from __future__ import annotations

import dataclasses
import inspect
import logging
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from typing import Any

import torch
from torch import Tensor, nn

from harness import rng
from harness.errors import CapabilityError, DataError, HarnessError, ParameterError
from harness.params import canonical, checked
from harness.protocols import PerturbationContext, PerturbationInfo
from harness.types import ImageBatch
from harness_attacks.global_randomness import seeded_globally
from harness_attacks.parameters import EPS_255
from harness_attacks.precision import differentiating
from harness_attacks.torchattacks_schema import LibraryAttack, TorchattacksParams
from harness_attacks.torchattacks_table import TORCHATTACKS

LINF = "linf"
"""The largest change of any value of an image, in units of the range [0, 1]: recorded by attacks without a budget."""

L2 = "l2"
"""The Euclidean norm of the change of a whole image, in the same units: recorded by attacks without a budget."""

_log = logging.getLogger(__name__)
_SLACK = 1e-6
_STRAYING = frozenset({"EADL1", "EADEN"})
_JSMA_MOST_VALUES = 3 * 64 * 64
"""JSMA holds matrices of all pairs of an image's values, 30 bytes or so for each: 4.5 GB at this size."""


class TorchAttack:
    """An attack of torchattacks (Kim, "Torchattacks", arXiv 2010.01950) on the target of the run.

    The library is given pixels in [0, 1] and the target's scores; what normalises the images is part of the target.
    The budget at level e is e/255, of any pixel's change (l-inf) or of the Euclidean norm of the whole image's (l2);
    at level 0 images stay as they are. Attacks without a level have no budget, and record the distances :data:`LINF`
    and :data:`L2` instead. Attacks are untargeted, but for JSMA, which goes for the next class.

    Whatever the library draws from global generators, it draws from ones that are seeded for seed, attack and the ids
    of the batch, and that are put back afterwards. Results depend on how images are batched.

    Where it differs from the library's own behaviour: APGDT, FAB and AutoAttack aim at ``n_target_classes`` classes or
    at all others where there are fewer; JSMA's next class is counted modulo the classes there are, not modulo 10.
    EADL1 and EADEN move the very image that they measure from by their first step, and so may end a little outside
    [0, 1]; they are cut back to it.

    Found on torch 2.14 and NumPy 2.4: every attack runs. FAB's norm L1 does not, and is not offered. DeepFool and
    SparseFool give NaN where a gradient is zero, Pixle takes square images only, and JSMA needs memory for all pairs of
    an image's values: those are errors here that say so. The attacks with momentum leave an image where it is, without
    a word, from the first gradient on that is exactly zero.
    """

    def __init__(self, attack: LibraryAttack, params: TorchattacksParams) -> None:
        self._attack, self._params = attack, params
        self._where = f"torchattacks:{attack.name}"
        self._norm = attack.norm_of(canonical(params))
        self._info = PerturbationInfo(
            name=attack.name,
            stochastic=attack.stochastic,
            stream=f"torchattacks.{attack.name}" if attack.stochastic else None,
            level=None if attack.norm is None else EPS_255,
            needs_target=True,
            keyed=False,
            params=canonical(params),
        )
        self._context: PerturbationContext | None = None

    @property
    def info(self) -> PerturbationInfo:
        """What it is and promises."""
        return self._info

    def prepare(self, context: PerturbationContext) -> None:
        """Take the target. Raises :class:`~harness.errors.HarnessError` for none."""
        if context.target is None:
            raise HarnessError(f"{self._where} needs a target to attack, and was given none")
        self._context = context

    def begin(self, batch: ImageBatch) -> None:  # noqa: ARG002 - the library shares nothing between budgets
        """Nothing: each level is an attack of its own."""
        if self._context is None:
            raise RuntimeError(f"{self._where}: begin() was called before prepare()")

    def apply(self, batch: ImageBatch, state: None, level: float | None) -> ImageBatch:  # noqa: ARG002 - the contract's
        """The batch attacked.

        Raises :class:`~harness.errors.ParameterError` for a level that is missing, out of range or not expected,
        :class:`~harness.errors.CapabilityError` for targets of too few classes and images that are too large, and
        :class:`~harness.errors.HarnessError` where the library fails, gives NaN, or leaves its budget.
        """
        context = self._context
        assert context is not None
        assert context.target is not None
        eps = self._budget(level)
        if eps == 0:
            return batch.with_images(batch.images)
        if not len(batch):
            return batch.with_images(batch.images, **self._distances(batch.images, batch.images))
        with differentiating("fp32", batch.images.device):
            images, labels = batch.images.clone(), batch.labels.clone()
            victim = _Victim(context.target, images.device)
            classes = self._classes(victim, images, labels)
            seed = self._seed(context, batch.ids)
            with seeded_globally(seed), _as_log_messages(self._where):
                try:
                    made = _library_class(self._attack)(victim, **self._arguments(eps, classes, seed))
                    if self._attack.library_name == "JSMA":
                        made.set_mode_targeted_by_function(lambda _, given: (given + 1) % classes, quiet=True)
                    parts = torch.split(torch.arange(len(images)), self._at_once or len(images))
                    found = torch.cat([made(images[part].clone(), labels[part]).detach() for part in parts])
                except (HarnessError, MemoryError, torch.OutOfMemoryError):
                    raise
                except Exception as error:
                    # A batch that is too large is no fault of the library: the engine tries again with a smaller one.
                    if any(words in str(error) for words in ("out of memory", "can't allocate memory")):
                        raise
                    raise self._failure(error, images) from error
        attacked = self._within_budget(found, images, eps, batch.ids)
        return batch.with_images(attacked, **self._distances(attacked, images))

    @property
    def _at_once(self) -> int | None:
        """How many images the library takes at once; None for any number."""
        return 1 if self._info.params.get("update_each_iteration") else None

    def _budget(self, level: float | None) -> float | None:
        """In units of the range [0, 1]; None for an attack without one."""
        if self._attack.norm is None:
            if level is not None:
                raise ParameterError(f"{self._where} has no levels, but was given {level:g}")
            return None
        if level is None:
            raise ParameterError(f"{self._where} needs an {EPS_255.name}", hint=f"{self._where}@4, or @all")
        level = EPS_255.check(level, self._where)
        if self._norm == "linf" and level > 255:
            raise ParameterError(
                f"{self._where}: {EPS_255.name} must lie in [0, 255] for the l-inf norm, not {level:g}",
                hint="it counts 255ths of the range of a pixel",
            )
        return level / 255

    def _classes(self, victim: nn.Module, images: Tensor, labels: Tensor) -> int:
        """How many classes the target scores; raises where attack, images or labels do not go with it."""
        with torch.no_grad():
            classes = int(victim(images[:1]).shape[1])
        needed = _classes_needed(self._attack.library_name, self._info.params)
        if classes < needed:
            raise CapabilityError(
                f"{self._where} needs a target of at least {needed} classes, this one scores {classes}",
                hint="version=rand needs three, and pgd two",
            )
        if int(labels.max()) >= classes:
            raise DataError(
                f"{self._where}: label {int(labels.max())}, but the target scores {classes} classes, from 0"
            )
        if self._attack.library_name == "JSMA" and images[0].numel() > _JSMA_MOST_VALUES:
            raise CapabilityError(
                f"{self._where} holds matrices of all pairs of an image's {images[0].numel()} values, "
                f"{30 * images[0].numel() ** 2 / 1e9:.0f} GB",
                hint="it is for images of up to 64x64 pixels; sparsefool changes few values as well",
            )
        return classes

    def _seed(self, context: PerturbationContext, ids: tuple[str, ...]) -> int:
        seed = context.seed if self._attack.stochastic else 0
        return int(rng.bits(seed, f"torchattacks.{self._attack.name}", ["\0".join(ids)], 1)[0, 0] >> 1)

    def _arguments(self, eps: float | None, classes: int, seed: int) -> dict[str, Any]:
        """What the library's class is called with, but for the model."""
        given = {
            item.library_name: item.library_value(getattr(self._params, item.name)) for item in self._attack.tunables
        }
        if eps is not None:
            given[self._attack.budget] = eps
        if "n_classes" in given:
            given["n_classes"] = min(given["n_classes"], classes)
        return given | ({"seed": seed} if "seed" in _library_arguments(self._attack) else {})

    def _failure(self, error: Exception, images: Tensor) -> HarnessError:
        size = "x".join(map(str, images.shape[2:]))
        return HarnessError(
            f"{self._where} failed on {len(images)} images of {size} pixels: {type(error).__name__}: {error}",
            hint="the error is the library's own; the attacks fgsm, pgd and mifgsm do without it",
        )

    def _within_budget(self, found: Tensor, images: Tensor, eps: float | None, ids: tuple[str, ...]) -> Tensor:
        """``found`` (N, 3, H, W), less what rounding put outside [0, 1]; raises for what is not allowed."""
        if found.shape != images.shape or found.dtype != images.dtype:
            raise HarnessError(
                f"{self._where} gave {tuple(found.shape)} {found.dtype} for {tuple(images.shape)} {images.dtype}"
            )
        broken = ~found.isfinite().flatten(1).all(dim=1)
        if bool(broken.any()):
            raise HarnessError(
                f"{self._where} gave NaN or infinity for {_named(broken, ids)}",
                hint="the target's gradient is zero there, or its scores are not finite; pgd can be told apart by its "
                "zero_gradient",
            )
        if self._attack.library_name in _STRAYING:
            found = found.clamp(0.0, 1.0)
        outside = ((found < -_SLACK) | (found > 1 + _SLACK)).flatten(1).any(dim=1)
        if bool(outside.any()):
            raise HarnessError(f"{self._where} left [0, 1] for {_named(outside, ids)}")
        if eps is not None:
            change = (found - images).flatten(1)
            size = torch.linalg.vector_norm(change, ord=2 if self._norm == "l2" else torch.inf, dim=1)
            # Sums of squares round more than a maximum does.
            beyond = size > eps * (1 + (1e-4 if self._norm == "l2" else 0)) + _SLACK
            if bool(beyond.any()):
                raise HarnessError(
                    f"{self._where} left its budget of {255 * eps:g}/255 ({self._norm}): up to "
                    f"{255 * float(size.max()):g}/255, for {_named(beyond, ids)}"
                )
        return found.clamp(0.0, 1.0)

    def _distances(self, attacked: Tensor, images: Tensor) -> dict[str, Tensor]:
        if self._attack.norm is not None:
            return {}
        change = (attacked - images).flatten(1).cpu().double()
        return {LINF: change.abs().amax(dim=1), L2: change.norm(dim=1)}


class _Victim(nn.Module):
    """A target as a module in eval mode; its one parameter tells the library where the images lie."""

    def __init__(self, scores: Callable[[Tensor], Tensor], device: torch.device) -> None:
        super().__init__()
        self._scores = scores
        self.anchor = nn.Parameter(torch.zeros((), device=device), requires_grad=False)
        self.eval()

    def forward(self, images: Tensor) -> Tensor:
        return self._scores(images)


def __getattr__(name: str) -> Callable[..., TorchAttack]:
    """What builds the attack that the library calls ``name``, with the signature of its parameters."""
    attack = TORCHATTACKS.get(name.lower())
    if attack is None or attack.library_name != name:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return _builder(attack)


@cache
def _builder(attack: LibraryAttack) -> Callable[..., TorchAttack]:
    schema = attack.params()

    def build(**given: Any) -> TorchAttack:
        return TorchAttack(attack, checked(schema(**given), f"torchattacks:{attack.name}"))

    build.__name__ = build.__qualname__ = attack.library_name
    build.__doc__ = f"``torchattacks.{attack.library_name}`` on the target of the run; see :class:`TorchAttack`."
    parameters = [
        inspect.Parameter(field.name, inspect.Parameter.KEYWORD_ONLY, default=field.default)
        for field in dataclasses.fields(schema)
    ]
    build.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]  # what inspect reads
    return build


def _library_class(attack: LibraryAttack) -> Callable[..., Any]:
    import torchattacks

    found: Callable[..., Any] = getattr(torchattacks, attack.library_name)
    return found


@cache
def _library_arguments(attack: LibraryAttack) -> frozenset[str]:
    return frozenset(inspect.signature(_library_class(attack)).parameters)


def _classes_needed(library_name: str, params: Any) -> int:
    """How far down the sorted scores the attack's loss reaches."""
    version = params.get("version")
    if library_name == "APGDT" or version in ("standard", "plus"):
        return 4
    return 3 if version == "rand" or params.get("loss") == "dlr" else 2


@contextmanager
def _as_log_messages(where: str) -> Iterator[None]:
    """Warnings of the library are for its authors; they go to the log."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        yield
    for message in {str(warning.message) for warning in caught}:
        _log.debug("%s: %s", where, message)


def _named(rows: Tensor, ids: tuple[str, ...]) -> str:
    chosen = [ids[row] for row in rows.nonzero().flatten().tolist()]
    return f"{len(chosen)} of {len(ids)} images: {', '.join(chosen[:5])}{', ...' if len(chosen) > 5 else ''}"
