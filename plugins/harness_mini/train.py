"""``python -m harness_mini.train NAME``: train a network of the zoo by its recipe, from the first step or the last."""

from __future__ import annotations

import dataclasses
import json
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, cast

import click
import torch
from torch import nn

from harness.errors import HarnessError, WeightsError
from harness.weights import file_digest
from harness_mini.cards import card_file, read_card, weights_file
from harness_mini.networks import NETWORKS, build
from harness_mini.shapes_dataset import Shapes
from harness_mini.training.lessons import load
from harness_mini.training.objectives import Labels, Objective, SelfDistillation, SoftDistillation
from harness_mini.training.publishing import own_seed_card, publish, stem_of
from harness_mini.training.recipes import Recipe, digest, recipe_of
from harness_mini.training.session import Basis, Run, Session, Trained, checkpoint_file, noted_signals
from harness_mini.training.teachers import Teacher, teacher_of

INTERRUPTED = 130
"""Exit code of a training that was told to end before it was done."""

# --- one training ----------------------------------------------------------------------------------------------------


def train(name: str, recipe: Recipe, session: Session, dataset: Shapes | None = None) -> Trained | None:
    """The trained network, or None where ``session`` stopped it early.

    On one thread an interrupted training ends with the same weights, bit for bit, as one that was not; several threads
    add up gradients in an order of their own.
    SIGINT and SIGTERM let the step in progress end, and its state be kept, before ``KeyboardInterrupt`` is raised.
    Raises :class:`~harness.errors.WeightsError` for a teacher without weights or with others than its card's, and for
    a checkpoint that is broken or belongs to another recipe, dataset or teacher.
    """
    dataset = Shapes() if dataset is None else dataset
    net = build(name, seed=recipe.seed).to(session.device).train()
    if NETWORKS[name].family == "resnet":
        net = net.to(memory_format=torch.channels_last)
    teacher = None if recipe.teacher is None else teacher_of(recipe.teacher, session.out)
    sha256 = None if teacher is None else teacher.sha256
    objective = _objective(name, net, recipe, session, teacher)
    basis = Basis(recipe=recipe, data_fingerprint=dataset.info.fingerprint, teacher_sha256=sha256)
    run = Run(name, net, objective, basis, session)
    start = run.resume()
    on_windows, on_whole = recipe.steps
    steps = on_windows + on_whole
    if start:
        click.echo(f"{name}: going on from step {start} of {steps}", err=True)
    with _progress(name, steps, start) as report, noted_signals() as signalled:
        for step in range(start, steps):
            batch = load(dataset, recipe.split, step * recipe.batch_size, recipe.batch_size)
            value = run.step(objective.loss(batch, windows=step < on_windows, step=step), (step + 1) / steps)
            report(step + 1, value)
            stopping = session.stop_after is not None and step + 1 - start >= session.stop_after
            interrupted = signalled.is_set()
            if run.due(step + 1) or step + 1 == steps or stopping or interrupted:
                run.save(step + 1)
            if stopping:
                return None
            if interrupted:
                break
    if signalled.is_set():
        raise KeyboardInterrupt(f"{name}: interrupted; step {run.kept} of {steps} is kept, train again to go on")
    average = objective.module.average if isinstance(objective, SelfDistillation) else net
    return Trained(net=cast(nn.Module, average).eval(), seconds=run.seconds, teacher_sha256=sha256)


def _objective(name: str, net: nn.Module, recipe: Recipe, session: Session, teacher: Teacher | None) -> Objective:
    if recipe.objective == "labels":
        return Labels(net, recipe, session.device)
    if recipe.objective == "self_distillation":
        return SelfDistillation(net, recipe, session.device)
    assert teacher is not None, f"the recipe of {name} distils without a teacher"
    return SoftDistillation(net, recipe, session.device, teacher.net)


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
        session = Session(out=out, device=_device(device))
        out.mkdir(parents=True, exist_ok=True)
        # What is wrong with one name is told before the first of the others is trained.
        recipes = {name: recipe_of(name) for name in names}
        if seed is not None:
            recipes = {name: dataclasses.replace(recipe, seed=seed) for name, recipe in recipes.items()}
        wanted = [name for name, recipe in recipes.items() if again or not _is_there(name, recipe, out)]
        for name in wanted:
            if stem_of(name, recipes[name]) != name:
                own_seed_card(name, recipes[name], out)
        for name in wanted:
            _train_one(name, recipes[name], session)
    except HarnessError as error:
        click.echo(f"error: {error}", err=True)
        sys.exit(error.exit_code)
    except KeyboardInterrupt as error:
        click.echo(str(error) or "interrupted", err=True)
        sys.exit(INTERRUPTED)


def _is_there(name: str, recipe: Recipe, out: Path) -> bool:
    """Whether there is nothing to train; raises WeightsError for other weights in their place."""
    stem = stem_of(name, recipe)
    file = weights_file(stem, out)
    # Weights without a card are those of a run that was killed while it measured them.
    if not file.exists() or not card_file(stem, out).exists():
        return False
    try:
        card = read_card(stem, out)
    except WeightsError as error:
        fault = error.message
    else:
        if card.get("recipe_sha256") != digest(recipe):
            fault = f"{file} is there already, but was trained by another recipe than {name} has now"
        elif card["sha256"] != file_digest(file):
            fault = f"{file} is there already, but is not the file that its card speaks of"
        else:
            click.echo(f"{name}: {file} is there already; --again trains it anew", err=True)
            return True
    raise WeightsError(fault, hint="--again trains it anew, another --out leaves it alone")


def _train_one(name: str, recipe: Recipe, session: Session) -> None:
    trained = train(name, recipe, session)
    assert trained is not None
    card = publish(name, trained, recipe, session)
    checkpoint_file(name, recipe.seed, session.out).unlink(missing_ok=True)
    file = weights_file(stem_of(name, recipe), session.out)
    click.echo(json.dumps({"name": name, "file": str(file), "accuracy": card["accuracy"]}))


def _device(text: str) -> torch.device:
    """The device, which has held a number and given it back."""
    chosen = ("cuda" if torch.cuda.is_available() else "cpu") if text == "auto" else text
    try:
        device = torch.device(chosen)
    except RuntimeError as error:
        raise click.UsageError(f"--device takes auto, cpu, cuda or cuda:N, not {text!r}") from error
    try:
        torch.ones(1, device=device).cpu()
    except Exception as error:  # a missing driver, module or memory: each kind of device has its own
        reason = str(error).strip().partition("\n")[0]
        raise click.UsageError(f"--device {text}: cannot compute there: {reason}") from error
    return device


if __name__ == "__main__":
    main()
