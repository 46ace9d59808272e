"""Which of the heads that were trained by stochastic gradient descent are reported."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING

import numpy as np
import torch

from harness.errors import ParameterError
from harness.types import Measurement
from harness_probes.held_out import LinearSolution
from harness_probes.ridge import LinearScores
from harness_probes.sgd import Heads, evaluate, initial_heads, train

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    import numpy.typing as npt

    from harness.types import JSONScalar, ModelInfo
    from harness_probes.held_out import LinearProblem
    from harness_probes.linear import LinearParams
    from harness_probes.recipes import Recipe


def solve_sgd(problem: LinearProblem, params: LinearParams, model: ModelInfo) -> LinearSolution:
    """Train as the recipe says, and keep what ``params.selected`` says.

    * ``last``: the heads after the last epoch; several learning rates are told apart by ``{"lr": base rate}``;
    * ``best_val``: the one head, of all epochs and learning rates, with the highest accuracy on the held-out rows; of
      equals the one with the lowest cross entropy there, then the first. It has seen the other rows only;
    * ``best_test``: the heads after every epoch, told apart by ``{"epoch": e}``, counted from 1.

    Raises :class:`~harness.errors.DataError` for too few images, and :class:`~harness.errors.ParameterError` where
    learning rates are so high that weights overflow.
    """
    recipe = _recipe(params)
    bases = recipe.learning_rates
    _, first = np.unique(problem.labels[problem.rows], return_index=True)
    heads = initial_heads(
        recipe,
        width=problem.features.shape[1],
        # Classes by their first images.
        order=np.argsort(np.argsort(first)),
        xavier=recipe.xavier_without_patches and model.patch_size is None,
        seed=problem.seed,
    ).to(problem.device)
    if params.selected == "best_val":
        training, held_out = problem.split(params.validation, otherwise="use selection=last")
        return _best_on(held_out, problem, train(problem, training, recipe, heads), bases)
    kept = []
    for epoch, trained in enumerate(train(problem, problem.rows, recipe, heads), start=1):
        if params.selected == "best_test":
            kept += _classifiers(trained, bases, {"epoch": epoch, "seed": problem.seed})
    if params.selected == "last":
        kept = _classifiers(heads, bases, {"seed": problem.seed})
    return LinearSolution(classifiers=tuple(kept), scored=len(kept) - len(bases))


def _recipe(params: LinearParams) -> Recipe:
    """The published constants, with what was overridden."""
    recipe = params.published
    return dataclasses.replace(
        recipe,
        epochs=params.epochs or recipe.epochs,
        batch_size=params.batch_size or recipe.batch_size,
        learning_rates=params.learning_rates or recipe.learning_rates,
    )


def _best_on(
    held_out: npt.NDArray[np.int64], problem: LinearProblem, epochs: Iterator[Heads], bases: Sequence[float]
) -> LinearSolution:
    best: tuple[int, float] | None = None
    chosen: tuple[int, int, LinearScores] | None = None
    for epoch, heads in enumerate(epochs, start=1):
        hits, losses = evaluate(heads, problem, held_out)
        finite = _finite(heads)
        for place in range(len(bases)):
            found = (-int(hits[place]), float(losses[place]))
            if finite[place] and (best is None or found < best):
                best, chosen = found, (epoch, place, _scores(heads, place))
    if chosen is None:
        raise _overflown(bases)
    epoch, place, linear = chosen
    dims = {"seed": problem.seed}
    extra = [
        Measurement(metric=metric, dims=dims, value=value, n=len(held_out), unit="", higher_is_better=None)
        for metric, value in (("learning_rate", bases[place]), ("epoch", epoch))
    ]
    return LinearSolution(classifiers=((dims, linear),), extra=tuple(extra))


def _classifiers(
    heads: Heads, bases: Sequence[float], dims: dict[str, JSONScalar]
) -> list[tuple[dict[str, JSONScalar], LinearScores]]:
    finite = _finite(heads)
    if not finite.all():
        raise _overflown([rate for rate, fine in zip(bases, finite, strict=True) if not fine])
    named = [{"lr": rate, **dims} if len(bases) > 1 else dims for rate in bases]
    return [(name, _scores(heads, place)) for place, name in enumerate(named)]


def _scores(heads: Heads, place: int) -> LinearScores:
    return LinearScores(
        weight=heads.weight[place].cpu().double().numpy().copy(), bias=heads.bias[place].cpu().double().numpy().copy()
    )


def _finite(heads: Heads) -> npt.NDArray[np.bool_]:
    both = torch.isfinite(heads.weight).flatten(1).all(dim=1) & torch.isfinite(heads.bias).all(dim=1)
    return np.asarray(both.cpu().numpy(), np.bool_)


def _overflown(rates: Sequence[float]) -> ParameterError:
    return ParameterError(
        f"linear: the weights overflow at learning rate {', '.join(f'{rate:g}' for rate in rates)}",
        hint=f"give lower learning_rates, for example {min(rates) / 100:g}",
    )
