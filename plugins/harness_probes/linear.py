"""Descriptor of the linear probe."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Literal

from harness.entries import ProbeEntry
from harness.errors import ParameterError
from harness.hookspecs import hookimpl
from harness.params import param
from harness.token_ensemble import TokenEnsemble
from harness.types import Capability
from harness_probes.recipes import RECIPES, Recipe
from harness_probes.shared_params import as_tuple, features_param

if TYPE_CHECKING:
    from collections.abc import Iterable

_OWN = {
    "logistic": ("standardise", "c", "iterations"),
    "sgd": ("recipe", "epochs", "batch_size", "learning_rates", "selection", "compat"),
    "ridge": ("ridge_lambda",),
}
"""The parameters that one solver alone reads."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LinearParams:
    """Parameters of ``linear``. One that the chosen solver does not read must keep its default."""

    features: str = features_param()
    solver: Literal["logistic", "sgd", "ridge"] = param(
        "logistic",
        help="logistic regression by L-BFGS, cross entropy by mini-batches (for data that outgrow memory), or ridge "
        "regression in closed form",
    )
    seeds: int = param(1, help="how many held-out parts, initial weights and draws of images are tried", low=1)
    per_class: int | None = param(
        None, help="support images of each class that are used; none for all", unit="images", low=1
    )
    validation: float = param(
        0.2,
        help="share of each class of the support images that is held out where something is chosen on them",
        low=0.01,
        high=0.9,
    )
    standardise: bool = param(True, help="logistic: scale every feature to mean 0 and standard deviation 1")
    c: tuple[float, ...] = param(
        (0.01, 0.1, 1.0, 10.0, 100.0),
        help="logistic: inverse penalties, rising; of several the best on the held-out part is taken",
        low=1e-9,
    )
    iterations: int = param(1000, help="logistic: the most iterations of L-BFGS", low=1)
    recipe: Literal["dino", "dinov2", "ipvit"] = param("dino", help="sgd: whose constants")
    epochs: int | None = param(None, help="sgd: passes over the support images; none for the recipe's", low=1)
    batch_size: int | None = param(None, help="sgd: none for the recipe's", unit="images", low=1)
    learning_rates: tuple[float, ...] | None = param(
        None,
        help="sgd: base learning rates, rising, all trained at once on the same batches; none for the recipe's",
        low=1e-9,
    )
    selection: Literal["last", "best_val", "best_test"] | None = param(
        None,
        help="sgd: heads after the last epoch, epoch and learning rate that are best on the held-out part, or (with "
        "compat=true) best on the test images; none for the recipe's",
    )
    compat: bool = param(False, help="sgd: allow selection=best_test, as in IPViT's code")
    ridge_lambda: float | Literal["auto"] = param(
        "auto",
        help="ridge: penalty on the squared weights of standardised features, or auto: chosen on the held-out part",
        low=1e-6,
        high=1e9,
    )

    def __post_init__(self) -> None:
        object.__setattr__(self, "features", TokenEnsemble.parse(self.features).text)
        object.__setattr__(self, "c", as_tuple(self.c))
        if self.learning_rates is not None:
            object.__setattr__(self, "learning_rates", as_tuple(self.learning_rates))
        for name, values in (("c", self.c), ("learning_rates", self.learning_rates)):
            if values is not None and (not len(values) or list(values) != sorted(set(values))):
                text = "+".join(map(str, values)) or "nothing"
                raise ParameterError(f"linear: {name} must be numbers that rise, not {text}", hint="for example 0.1+1")
        self._refuse_unread()
        if self.solver == "sgd":
            self._check_selection()
        if self.validation != _default("validation") and not self.chooses:
            raise ParameterError(
                f"linear: validation={self.validation:g} says nothing where nothing is chosen on held-out images",
                hint="leave it out, or let something be chosen: several values of c, selection=best_val with "
                "solver=sgd, or ridge_lambda=auto with solver=ridge",
            )

    def _refuse_unread(self) -> None:
        for solver, names in _OWN.items():
            for name in names:
                if solver != self.solver and getattr(self, name) != _default(name):
                    raise ParameterError(
                        f"linear: {name} says nothing with solver={self.solver}",
                        hint=f"leave it out, or choose solver={solver}",
                    )

    def _check_selection(self) -> None:
        if self.selection == "best_test" and not self.compat:
            raise ParameterError(
                "linear: selection=best_test needs compat=true, since it chooses on the images it is measured on",
                hint="use selection=best_val, or compat=true to compare with numbers that were published that way",
            )
        if self.compat and self.selection != "best_test":
            raise ParameterError(
                "linear: compat=true says nothing without selection=best_test", hint="leave one out, or give both"
            )

    @property
    def published(self) -> Recipe:
        """The constants of the recipe."""
        return RECIPES[self.recipe]

    @property
    def selected(self) -> str:
        """The selection, the recipe's own where none was given."""
        return self.selection or self.published.selection

    @property
    def selected_on_test(self) -> bool:
        """Whether the number reported is the best of several on the images it is measured on."""
        return self.solver == "sgd" and self.selected == "best_test"

    @property
    def chooses(self) -> bool:
        """Whether anything is chosen on a held-out part of the support images."""
        if self.solver == "logistic":
            return len(self.c) > 1
        if self.solver == "sgd":
            return self.selected == "best_val"
        return self.ridge_lambda == "auto"


def _default(name: str) -> object:
    return next(field.default for field in fields(LinearParams) if field.name == name)


@hookimpl
def harness_register_probes() -> Iterable[ProbeEntry]:
    """Offer ``linear``."""
    yield ProbeEntry(
        name="linear",
        target="harness_probes.linear_probe:LinearProbe",
        summary="accuracy of a linear classifier fitted on the support images (logistic regression, SGD or ridge)",
        params=LinearParams,
        learns=True,
        stochastic=True,
        needs=frozenset({Capability.POOLED}),
        headline="accuracy",
        features_param="features",
    )
