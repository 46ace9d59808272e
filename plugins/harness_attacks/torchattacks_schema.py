"""What is said of an attack of torchattacks, and the dataclass of its parameters that follows from it."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from functools import cache
from typing import Any, Literal, TypeAlias

from harness.params import param
from harness_attacks.parameters import AttackTarget

BudgetNorm: TypeAlias = Literal["linf", "l2", "chosen"]


@dataclass(frozen=True, slots=True, kw_only=True)
class TorchattacksParams:
    """What every attack of the library takes here: what it aims at."""

    attack_target: AttackTarget = param(
        "head", help="what it aims at: the model's own head, or the probe that is then asked (--attack-target sets it)"
    )
    source: str | None = param(
        None, help="the model whose head it is crafted on, for a transfer attack; by default the evaluated one"
    )


@dataclass(frozen=True, slots=True)
class Tunable:
    """One parameter of an attack, with the library's default.

    Its name is the library's, but for step sizes, ``alpha_255`` in 255ths of the range [0, 1] for its ``alpha``, and
    ``n_target_classes`` for its ``n_classes``, which is one more.
    """

    name: str
    kind: Any
    default: bool | float | str | tuple[int, int]
    help: str
    unit: str = ""
    low: float | None = None
    high: float | None = None

    @property
    def library_name(self) -> str:
        """What the library calls it."""
        return {"alpha_255": "alpha", "n_target_classes": "n_classes"}.get(self.name, self.name)

    def library_value(self, value: Any) -> Any:
        """What the library is given for ``value``."""
        if self.name == "alpha_255":
            return value / 255
        return value + 1 if self.name == "n_target_classes" else value


@dataclass(frozen=True, slots=True, kw_only=True)
class LibraryAttack:
    """An attack of the library.

    ``library_name``: its class. ``norm`` of its budget: l-inf, l2, what its parameter ``norm`` says, or None for an
    attack without a budget. ``budget``: what the library calls it. ``stochastic``: whether a seed can matter.
    ``gradient_free``: it asks for scores only.
    """

    library_name: str
    summary: str
    tunables: tuple[Tunable, ...] = ()
    norm: BudgetNorm | None = "linf"
    budget: str = "eps"
    stochastic: bool = False
    gradient_free: bool = False

    @property
    def name(self) -> str:
        """The entry's name."""
        return self.library_name.lower()

    def params(self) -> type[TorchattacksParams]:
        """The dataclass of its parameters."""
        return _schema(self)

    def norm_of(self, params: Any) -> Literal["linf", "l2"] | None:
        """The norm of its budget under ``params``, a mapping of parameters by name; None without a budget."""
        if self.norm == "chosen":
            return "l2" if params["norm"] == "L2" else "linf"
        return self.norm


@cache
def _schema(attack: LibraryAttack) -> type[TorchattacksParams]:
    fields = [
        (item.name, item.kind, param(item.default, help=item.help, unit=item.unit, low=item.low, high=item.high))
        for item in attack.tunables
    ]
    made: type[TorchattacksParams] = dataclasses.make_dataclass(
        f"{attack.library_name}Params",
        fields,
        bases=(TorchattacksParams,),
        namespace={"__doc__": f"Parameters of ``torchattacks:{attack.name}``.", "__module__": __name__},
        frozen=True,
        slots=True,
        kw_only=True,
    )
    return made
