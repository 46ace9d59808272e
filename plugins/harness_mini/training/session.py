"""One training and its checkpoint: what a step changes, when that is kept, and what a killed training goes on from."""

from __future__ import annotations

import math
import signal
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Any

import torch
from torch import Tensor, nn

from harness.errors import WeightsError
from harness_mini.training.objectives import Objective
from harness_mini.training.optimiser import Muon
from harness_mini.training.recipes import Recipe, digest

CHECKPOINT_EVERY = 200
"""Steps between two checkpoints, at most."""

CHECKPOINT_SECONDS = 30.0
"""Time between two checkpoints, at most, but for the step in progress."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Session:
    """Where a training runs: results go to ``out``, a killed training goes on from the checkpoint there."""

    out: Path
    device: torch.device
    checkpoint_every: int = CHECKPOINT_EVERY
    checkpoint_seconds: float = CHECKPOINT_SECONDS
    clock: Callable[[], float] = time.monotonic
    """Seconds since whenever."""
    stop_after: int | None = None
    """End after so many steps with a checkpoint and without a result, as a kill would."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Trained:
    """A trained network, the seconds of all sessions that it took, and its teacher's digest (None: no teacher)."""

    net: nn.Module
    seconds: float
    teacher_sha256: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Basis:
    """What every step of a training follows from, besides the step itself."""

    recipe: Recipe
    data_fingerprint: str
    teacher_sha256: str | None

    def as_dict(self) -> dict[str, str | None]:
        """Digests, by what they are of."""
        return {"recipe": digest(self.recipe), "dataset": self.data_fingerprint, "teacher": self.teacher_sha256}


def checkpoint_file(name: str, seed: int, folder: Path) -> Path:
    """``NAME.seedN.checkpoint.pt`` in ``folder``."""
    return folder / f"{name}.seed{seed}.checkpoint.pt"


class Run:
    """Network, objective and optimisers of one training, and how they are kept."""

    def __init__(self, name: str, net: nn.Module, objective: Objective, basis: Basis, session: Session) -> None:
        self.net, self.objective, self.recipe = net, objective, basis.recipe
        self.optimisers = _optimisers(net, objective.module, basis.recipe)
        self.kept = 0
        """Steps in the checkpoint."""
        self._rates = [group["lr"] for optimiser in self.optimisers for group in optimiser.param_groups]
        self._path = checkpoint_file(name, basis.recipe.seed, session.out)
        self._basis, self._session = basis.as_dict(), session
        self._began = self._saved = session.clock()
        self._earlier = 0.0

    @property
    def seconds(self) -> float:
        """How long this training has taken, earlier sessions included."""
        return self._earlier + self._session.clock() - self._began

    def step(self, loss: Tensor, progress: float) -> float:
        """One update at ``progress`` in (0, 1]; the loss as a number."""
        factor = _schedule(progress, self.recipe.warm_up)
        groups = [group for optimiser in self.optimisers for group in optimiser.param_groups]
        for group, rate in zip(groups, self._rates, strict=True):
            group["lr"] = rate * factor
        for optimiser in self.optimisers:
            optimiser.zero_grad()
        torch.autograd.backward(loss)
        nn.utils.clip_grad_norm_(
            [*self.net.parameters(), *self.objective.module.parameters()], self.recipe.gradient_norm
        )
        for optimiser in self.optimisers:
            optimiser.step()
        self.objective.after_step(progress)
        return float(loss.detach())

    def due(self, step: int) -> bool:
        """Whether it is time for a checkpoint after ``step`` steps."""
        late = self._session.clock() - self._saved >= self._session.checkpoint_seconds
        return late or step % self._session.checkpoint_every == 0

    def save(self, step: int) -> None:
        """Keep everything that the next step depends on, whole or not at all."""
        part = self._path.with_suffix(".part")
        state = {
            "step": step,
            "seconds": self.seconds,
            "basis": self._basis,
            "net": self.net.state_dict(),
            "objective": self.objective.module.state_dict(),
            "optimisers": [optimiser.state_dict() for optimiser in self.optimisers],
        }
        torch.save(state, part)
        part.replace(self._path)
        self.kept, self._saved = step, self._session.clock()

    def resume(self) -> int:
        """How many steps are done already.

        Raises :class:`~harness.errors.WeightsError` for a checkpoint that is broken, or that belongs to another
        recipe, dataset or teacher.
        """
        if not self._path.exists():
            return 0
        state = self._read()
        changed = [f"another {what}" for what, value in self._basis.items() if state["basis"].get(what) != value]
        if changed:
            raise WeightsError(
                f"{self._path} belongs to {' and '.join(changed)}",
                hint="delete it to train anew, or choose another --out",
            )
        try:
            self.net.load_state_dict(state["net"])
            self.objective.module.load_state_dict(state["objective"])
            for optimiser, kept in zip(self.optimisers, state["optimisers"], strict=True):
                optimiser.load_state_dict(kept)
        except (AttributeError, KeyError, RuntimeError, TypeError, ValueError) as error:
            raise self._broken(error) from error
        self.kept, self._earlier = state["step"], state["seconds"]
        return self.kept

    def _read(self) -> Mapping[str, Any]:
        try:
            state = torch.load(self._path, map_location="cpu", weights_only=True)
        except Exception as error:  # what a damaged file makes its reader raise has no common type
            raise self._broken(error) from error
        expected = {"step": int, "seconds": float, "basis": dict, "net": dict, "objective": dict, "optimisers": list}
        if not isinstance(state, dict):
            raise self._broken(f"it holds {type(state).__name__} instead of a training's state")
        wrong = [key for key, kind in expected.items() if not isinstance(state.get(key), kind)]
        if wrong:
            raise self._broken(f"it lacks {', '.join(wrong)}")
        return state

    def _broken(self, found: str | Exception) -> WeightsError:
        if isinstance(found, Exception):
            found = f"{type(found).__name__} {str(found).strip().partition(chr(10))[0]}".strip()
        return WeightsError(f"{self._path} is no whole checkpoint: {found}", hint="delete it to train anew")


@contextmanager
def noted_signals() -> Iterator[threading.Event]:
    """An event that SIGINT and SIGTERM set instead of ending the process; the second of them ends it.

    Only the main thread can catch signals; in others, the event is never set.
    """
    noted = threading.Event()
    if threading.current_thread() is not threading.main_thread():
        yield noted
        return
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    caught = {number: handler for number, handler in before.items() if handler not in (None, signal.SIG_IGN)}

    def restore() -> None:
        for number, handler in caught.items():
            signal.signal(number, handler)

    def note(number: int, frame: FrameType | None) -> None:  # noqa: ARG001  # what signal calls it with
        restore()
        noted.set()

    for number in caught:
        signal.signal(number, note)
    try:
        yield noted
    finally:
        restore()


def _schedule(progress: float, warm_up: float) -> float:
    if progress < warm_up:
        return progress / warm_up
    return 0.5 * (1 + math.cos(math.pi * (progress - warm_up) / (1 - warm_up)))


def _optimisers(net: nn.Module, extra: nn.Module, recipe: Recipe) -> list[torch.optim.Optimizer]:
    named = [*net.named_parameters(), *extra.named_parameters()]
    learning = {name: value for name, value in named if value.requires_grad}
    inner: list[nn.Parameter] = []
    if recipe.matrix_learning_rate is not None:
        inner = [value for name, value in net.named_parameters() if name.startswith("blocks.") and value.ndim == 2]
    known = {id(value) for value in inner}
    rest = [value for value in learning.values() if id(value) not in known]
    groups = [
        {"params": [value for value in rest if value.ndim > 1], "weight_decay": recipe.weight_decay},
        {"params": [value for value in rest if value.ndim <= 1], "weight_decay": 0.0},
    ]
    found: list[torch.optim.Optimizer] = [torch.optim.AdamW(groups, lr=recipe.learning_rate, betas=(0.9, 0.98))]
    if inner and recipe.matrix_learning_rate is not None:
        found.append(Muon(inner, lr=recipe.matrix_learning_rate, weight_decay=recipe.weight_decay))
    return found
