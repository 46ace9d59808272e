"""What a record says of the attack behind it: its aim, its budget, and how hard it searched."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from harness.naming import parameter_text
from harness.types import canonical_json
from harness_attacks.parameters import GradientParams, MIFGSMParams, PGDParams
from harness_attacks.torchattacks_table import TORCHATTACKS

if TYPE_CHECKING:
    from collections.abc import Mapping

    from harness.types import ResultRecord

_NATIVE: dict[str, type] = {"fgsm": GradientParams, "pgd": PGDParams, "mifgsm": MIFGSMParams}
_LIBRARY = "torchattacks:"

_SINGLE_STEP = frozenset({"fgsm", f"{_LIBRARY}fgsm"})
_PROJECTED = frozenset({"pgd", *(_LIBRARY + name for name in ("bim", "pgd", "eotpgd", "upgd", "apgd", "pgdl2"))})
_MIXED = frozenset({f"{_LIBRARY}autoattack"})
_CLIMBING = _PROJECTED | _MIXED | {"mifgsm", f"{_LIBRARY}mifgsm", f"{_LIBRARY}apgdt"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Aim:
    """What two gradient attacks must have in common for their numbers to be compared.

    ``target``: ``head`` or ``probe``; ``source``: the model it was crafted on, None for the evaluated one; ``loss``: by
    our name where the library's is the same.
    """

    norm: str
    goal: str
    target: str
    source: str | None
    loss: str
    precision: str
    quantise: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Attack:
    """An attack with a budget eps.

    ``label``: how it is asked for, with the parameters that differ from their defaults; ``but_for_steps``: the same
    without its number of steps, which are ``steps``, None where there is no such number. ``asks_evaluated``: accuracy
    is that of the very scores it attacked.
    """

    name: str
    label: str
    but_for_steps: str
    fingerprint: str
    aim: Aim
    asks_evaluated: bool
    steps: int | None
    params: Mapping[str, Any] = field(compare=False, repr=False)

    @property
    def lowers_accuracy(self) -> bool:
        """It goes away from the true class by gradients of the very scores that are asked."""
        return self.asks_evaluated and not self.is_black_box and self.aim.goal == "untargeted"

    @property
    def is_single_step(self) -> bool:
        """FGSM."""
        return self.name in _SINGLE_STEP

    @property
    def is_projected(self) -> bool:
        """PGD of some kind, which at equal eps should do no worse than FGSM."""
        return self.name in _PROJECTED

    @property
    def climbs(self) -> bool:
        """It searches the whole ball by steps, so that it should do no worse in a larger one."""
        return self.name in _CLIMBING

    @property
    def is_black_box(self) -> bool:
        """It never saw a gradient of what is asked: scores only, or the gradients of another model."""
        library = TORCHATTACKS.get(self.name.removeprefix(_LIBRARY)) if self.name.startswith(_LIBRARY) else None
        return self.aim.source is not None or (library is not None and library.gradient_free)

    @property
    def is_white_box(self) -> bool:
        """It lowers accuracy by nothing but gradients, and its result was not rounded afterwards."""
        return self.lowers_accuracy and self.name not in _MIXED and not self.aim.quantise

    def reaches(self, eps_255: float) -> bool:
        """Whether its steps, laid end to end, are as long as the budget; else a larger one only scatters its starts."""
        if self.steps is None:
            return True
        steps, step = self.steps, self.params.get("step_255", self.params.get("alpha_255"))
        if step is None:  # pgd steps by half of eps, mifgsm by eps / steps; others set their own sizes
            return self.name != "pgd" or steps >= 2
        if steps == 0:  # torchattacks:bim then follows its paper
            steps = int(min(eps_255 + 4, 1.25 * eps_255))
        return steps * float(step) >= eps_255 * (1 - 1e-9)


def attack_of(record: ResultRecord) -> Attack | None:
    """The attack of a record; None where there is none, or one without an eps that is known here."""
    component = record.cell["components"]["perturbation"]
    name = str(component["use"])
    if record.cell["level"] is None:
        return None
    library = TORCHATTACKS.get(name.removeprefix(_LIBRARY)) if name.startswith(_LIBRARY) else None
    if name in _NATIVE:
        defaults = _defaults(_NATIVE[name])
    elif library is not None and library.norm is not None:
        defaults = _defaults(library.params())
    else:
        return None
    # A record older than a parameter does not hold it, and had what is now its default.
    params = {**defaults, **component["params"]}
    target, source = params["attack_target"], params["source"]
    if source == record.cell["model"] and not str(record.cell["weights"]).startswith(("random", "sha256")):
        source = None  # crafted on the evaluated network itself, it is no transfer
    probe = record.cell["components"]["probe"]["use"]
    loss = str(params.get("loss", "ce"))
    return Attack(
        name=name,
        label=_label(name, params, defaults),
        but_for_steps=_label(name, {key: value for key, value in params.items() if key != "steps"}, defaults),
        fingerprint=str(component["fingerprint"]),
        aim=Aim(
            norm=str(params["norm"] if library is None else library.norm_of(params)),
            goal=params.get("goal", "untargeted"),
            target=target,
            source=source,
            loss="cross_entropy" if loss == "ce" else loss,
            precision=params.get("precision", "fp32"),
            quantise=params.get("quantise", False),
        ),
        asks_evaluated=source is None and (target == "probe" or probe == "head"),
        steps=params.get("steps"),
        params=params,
    )


def _defaults(schema: type) -> dict[str, Any]:
    return {item.name: item.default for item in dataclasses.fields(schema)}


def _label(name: str, params: Mapping[str, Any], defaults: Mapping[str, Any]) -> str:
    """The text that asks for it: ``pgd:steps=20``."""
    differing = {key: value for key, value in params.items() if _text(value) != _text(defaults.get(key))}
    return ":".join([name, *(parameter_text(key, value) for key, value in differing.items())])


def _text(value: Any) -> str:
    return canonical_json(list(value) if isinstance(value, tuple) else value)
