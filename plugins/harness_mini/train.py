"""``python -m harness_mini.train NAME``: train a network of the zoo by its recipe, from the first step or the last."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import math
import platform
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import click
import torch
from torch import Tensor, nn

from harness.errors import HarnessError, WeightsError
from harness.stats import wilson
from harness.types import JSONValue
from harness.weights import load_strict, read_state_dict
from harness_mini.cards import card_file, read_card, weights_file, write_card
from harness_mini.networks import NETWORKS, build
from harness_mini.shapes_dataset import Shapes
from harness_mini.training.lessons import accuracy, heads, load, to_device, whole
from harness_mini.training.objectives import Labels, Objective, SelfDistillation, SoftDistillation
from harness_mini.training.optimiser import Muon
from harness_mini.training.recipes import Recipe, digest, recipe_of

CHECKPOINT_EVERY = 200
"""Steps between two checkpoints."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Session:
    """Where a training runs: results go to ``out``, a killed training goes on from the checkpoint there."""

    out: Path
    device: torch.device
    checkpoint_every: int = CHECKPOINT_EVERY
    stop_after: int | None = None
    """End after so many steps with a checkpoint and without a result, as a kill would."""


# --- one training ----------------------------------------------------------------------------------------------------


def train(name: str, recipe: Recipe, session: Session, dataset: Shapes | None = None) -> nn.Module | None:
    """The trained network, or None where ``session`` stopped it early.

    Raises :class:`~harness.errors.WeightsError` for a teacher without weights, and for a checkpoint of another recipe.
    """
    dataset = Shapes() if dataset is None else dataset
    net = build(name, seed=recipe.seed).to(session.device).train()
    if NETWORKS[name].family == "resnet":
        net = net.to(memory_format=torch.channels_last)
    objective = _objective(name, net, recipe, session)
    run = _Run(name, net, objective, recipe, session)
    start = run.resume()
    on_windows, on_whole = recipe.steps
    steps = on_windows + on_whole
    with _progress(name, steps, start) as report:
        for step in range(start, steps):
            batch = load(dataset, recipe.split, step * recipe.batch_size, recipe.batch_size)
            value = run.step(objective.loss(batch, windows=step < on_windows, step=step), (step + 1) / steps)
            report(step + 1, value)
            stopping = session.stop_after is not None and step + 1 - start >= session.stop_after
            if (step + 1) % session.checkpoint_every == 0 or step + 1 == steps or stopping:
                run.save(step + 1)
            if stopping:
                return None
    average = objective.module.average if isinstance(objective, SelfDistillation) else net
    return cast(nn.Module, average).eval()


class _Run:
    """Network, objective and optimisers of one training, and how they are kept."""

    def __init__(self, name: str, net: nn.Module, objective: Objective, recipe: Recipe, session: Session) -> None:
        self.net, self.objective, self.recipe = net, objective, recipe
        self.optimisers = _optimisers(net, objective.module, recipe)
        self._rates = [group["lr"] for optimiser in self.optimisers for group in optimiser.param_groups]
        self._path = session.out / f"{name}.seed{recipe.seed}.checkpoint.pt"
        self._device = session.device

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

    def save(self, step: int) -> None:
        """Keep everything that the next step depends on, whole or not at all."""
        part = self._path.with_suffix(".part")
        state = {
            "step": step,
            "recipe": digest(self.recipe),
            "net": self.net.state_dict(),
            "objective": self.objective.module.state_dict(),
            "optimisers": [optimiser.state_dict() for optimiser in self.optimisers],
        }
        torch.save(state, part)
        part.replace(self._path)

    def resume(self) -> int:
        """How many steps are done already."""
        if not self._path.exists():
            return 0
        state = torch.load(self._path, map_location=self._device, weights_only=True)
        if state["recipe"] != digest(self.recipe):
            raise WeightsError(
                f"{self._path} belongs to another recipe", hint="delete it to train anew, or choose another --out"
            )
        self.net.load_state_dict(state["net"])
        self.objective.module.load_state_dict(state["objective"])
        for optimiser, kept in zip(self.optimisers, state["optimisers"], strict=True):
            optimiser.load_state_dict(kept)
        return int(state["step"])


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


def _objective(name: str, net: nn.Module, recipe: Recipe, session: Session) -> Objective:
    if recipe.objective == "labels":
        return Labels(net, recipe, session.device)
    if recipe.objective == "self_distillation":
        return SelfDistillation(net, recipe, session.device)
    assert recipe.teacher is not None, f"the recipe of {name} distils without a teacher"
    return SoftDistillation(net, recipe, session.device, teacher_of(recipe.teacher, session.out))


def teacher_of(name: str, out: Path) -> nn.Module:
    """The trained network ``name`` from ``out``, or else from the package.

    Raises :class:`~harness.errors.WeightsError` where neither has its weights.
    """
    file = next((file for file in (weights_file(name, out), weights_file(name)) if file.is_file()), None)
    if file is None:
        raise WeightsError(
            f"the teacher {name} has no weights in {out} or in the package", hint=f"python -m harness_mini.train {name}"
        )
    net = build(name, seed=0)
    load_strict(net, read_state_dict(file), source=str(file))
    return net.eval()


@contextmanager
def _progress(name: str, steps: int, start: int) -> Iterator[Any]:
    """A bar with the loss on a terminal, a line every twentieth of the way elsewhere; on stderr."""
    began = time.monotonic()
    if sys.stderr.isatty():
        from rich.console import Console
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

        columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
        with Progress(*columns, console=Console(stderr=True)) as bar:
            task = bar.add_task(name, total=steps, completed=start)
            yield lambda step, loss: bar.update(task, completed=step, description=f"{name}  loss {loss:.3f}")
        return

    def line(step: int, loss: float) -> None:
        if step % max(1, steps // 20) == 0 or step == steps:
            click.echo(f"{name}: step {step} of {steps}, loss {loss:.3f}, {time.monotonic() - began:.0f} s", err=True)

    yield line


# --- what is kept ----------------------------------------------------------------------------------------------------


def publish(name: str, net: nn.Module, recipe: Recipe, session: Session, *, seconds: float) -> dict[str, JSONValue]:
    """Write weights in half precision and their card to ``session.out``; the card measures the rounded weights.

    A seed other than the recipe's own writes ``NAME.seedN``, and is entered in the card of the recipe's own seed,
    if that lies there.
    """
    from safetensors.torch import save_file

    first = recipe.seed == recipe_of(name).seed
    stem = name if first else f"{name}.seed{recipe.seed}"
    halves = {
        key: (value.half() if value.is_floating_point() else value).contiguous().cpu()
        for key, value in net.state_dict().items()
    }
    file = weights_file(stem, session.out)
    part = file.with_suffix(".part")
    save_file(halves, str(part))
    part.chmod(0o644)  # the library writes for its owner alone
    part.replace(file)
    rounded = build(name, seed=recipe.seed)
    load_strict(rounded, read_state_dict(file), source=str(file))
    rounded = rounded.to(session.device).eval()
    dataset = Shapes()
    card: dict[str, JSONValue] = {
        "name": name,
        "seed": recipe.seed,
        "parameters": sum(value.numel() for value in net.parameters()),
        "sha256": hashlib.sha256(file.read_bytes()).hexdigest(),
        "recipe": recipe.as_dict(),
        "recipe_sha256": digest(recipe),
        "data_fingerprint": dataset.info.fingerprint,
        **_measured(name, rounded, recipe, session, dataset),
        "trained_with": {"torch": torch.__version__, "device": session.device.type, "machine": platform.machine()},
        "seconds": round(seconds),
    }
    if first:
        card["other_seeds"] = []
        write_card(name, card, session.out)
    else:
        write_card(stem, card, session.out)
        _enter_other_seed(name, card, session.out)
    return card


def _measured(name: str, net: nn.Module, recipe: Recipe, session: Session, dataset: Shapes) -> dict[str, JSONValue]:
    """Accuracy of each head with its Wilson interval, and how often the teacher agrees with the label."""
    if recipe.objective == "self_distillation":
        return {"accuracy": None}
    names = ("head",) if NETWORKS[name].family != "deit" else ("cls", NETWORKS[name].second_token, "average")
    measured: dict[str, JSONValue] = {}
    own = "stylized" if recipe.split == "stylized_train" else "test"
    for split in dict.fromkeys((own, "test")):
        total = len(dataset.index(split))
        measured[split] = {
            head: _proportion(correct, total)
            for head, correct in zip(names, accuracy(net, dataset, split, device=session.device), strict=True)
        }
    found: dict[str, JSONValue] = {"accuracy": measured}
    if recipe.teacher is not None:
        found["teacher_agrees_with_label"] = _agreement(recipe, session, dataset)
    return found


def _proportion(correct: int, total: int) -> dict[str, JSONValue]:
    interval = wilson(correct, total)
    return {
        "value": correct / total,
        "low": interval.low,
        "high": interval.high,
        "interval": interval.method,
        "n": total,
    }


def _agreement(recipe: Recipe, session: Session, dataset: Shapes, images: int = 2400) -> dict[str, JSONValue]:
    """How often the teacher's most likely class is the label, on the first images of the training split."""
    assert recipe.teacher is not None
    teacher = teacher_of(recipe.teacher, session.out).to(session.device)
    agreed = 0
    with torch.inference_mode():
        for start in range(0, images, 200):
            lesson = to_device(whole(load(dataset, recipe.split, start, min(200, images - start))), session.device)
            agreed += int((heads(teacher, lesson)[0].argmax(dim=1) == lesson.labels).sum())
    return _proportion(agreed, images)


def _enter_other_seed(name: str, card: dict[str, JSONValue], folder: Path) -> None:
    try:
        main = read_card(name, folder)
    except WeightsError:
        return  # trained before the first seed: its own card stands beside the weights
    if main["recipe_sha256"] != digest(dataclasses.replace(_recipe_in(card), seed=main["seed"])):
        raise WeightsError(f"{name}: seed {card['seed']} was trained by another recipe than seed {main['seed']}")
    others = [other for other in main["other_seeds"] if other["seed"] != card["seed"]]
    entry = {key: card[key] for key in ("seed", "sha256", "accuracy")}
    main["other_seeds"] = sorted([*others, entry], key=lambda other: int(other["seed"]))
    write_card(name, main, folder)


def _recipe_in(card: dict[str, JSONValue]) -> Recipe:
    return Recipe(**cast("dict[str, Any]", card["recipe"]))


# --- the command -----------------------------------------------------------------------------------------------------


@click.command()
@click.argument("names", nargs=-1, required=True, metavar="NAME...")
@click.option("--seed", type=click.IntRange(0), help="Seed of initial weights and windows [default: the recipe's].")
@click.option("--out", type=click.Path(path_type=Path, file_okay=False), default=Path("zoo"), show_default=True,
              help="Folder of weights, cards and checkpoints.")  # fmt: skip
@click.option("--device", default="auto", show_default=True, metavar="auto|cpu|cuda|...")
@click.option("--threads", type=click.IntRange(1), help="Processor threads [default: all cores].")
@click.option("--again", is_flag=True, help="Train even where the weights are there already.")
def main(names: tuple[str, ...], seed: int | None, out: Path, device: str, threads: int | None, again: bool) -> None:
    """Train networks of the zoo by their recipes; a killed training goes on where it stopped.

    A network that learns from a teacher takes it from --out or, if it is not there, from the package.
    """
    try:
        if threads is not None:
            torch.set_num_threads(threads)
        chosen = _device(device)
        out.mkdir(parents=True, exist_ok=True)
        # A name that has no recipe is told before the first of the others is trained.
        recipes = {name: recipe_of(name) for name in names}
        for name, recipe in recipes.items():
            seeded = recipe if seed is None else dataclasses.replace(recipe, seed=seed)
            _train_one(name, seeded, Session(out=out, device=chosen), again=again)
    except HarnessError as error:
        click.echo(f"error: {error}", err=True)
        sys.exit(error.exit_code)


def _train_one(name: str, recipe: Recipe, session: Session, *, again: bool) -> None:
    first = recipe.seed == recipe_of(name).seed
    stem = name if first else f"{name}.seed{recipe.seed}"
    file = weights_file(stem, session.out)
    # Weights without a card are those of a run that was killed while it measured them.
    if file.exists() and card_file(stem, session.out).exists() and not again:
        click.echo(f"{name}: {file} is there already; --again trains it anew", err=True)
        return
    began = time.monotonic()
    net = train(name, recipe, session)
    assert net is not None
    card = publish(name, net, recipe, session, seconds=time.monotonic() - began)
    (session.out / f"{name}.seed{recipe.seed}.checkpoint.pt").unlink(missing_ok=True)
    click.echo(json.dumps({"name": name, "file": str(file), "accuracy": card["accuracy"]}))


def _device(text: str) -> torch.device:
    if text == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        return torch.device(text)
    except RuntimeError as error:
        raise click.UsageError(f"--device takes auto, cpu, cuda or cuda:N, not {text!r}") from error


if __name__ == "__main__":
    main()
