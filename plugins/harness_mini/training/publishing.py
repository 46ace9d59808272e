"""What is kept of a training: weights in half precision, and the card that says what they are and where from."""

from __future__ import annotations

import dataclasses
import hashlib
import platform
from pathlib import Path
from typing import Any

import torch
from torch import nn

from harness.errors import WeightsError
from harness.state_dicts import load_strict, read_state_dict
from harness.stats import wilson
from harness.types import JSONValue
from harness_mini.cards import card_file, read_card, weights_file, write_card
from harness_mini.networks import NETWORKS, build
from harness_mini.shapes_dataset import Shapes
from harness_mini.training.lessons import accuracy, heads, load, to_device, whole
from harness_mini.training.recipes import Recipe, digest, recipe_of
from harness_mini.training.session import Session, Trained
from harness_mini.training.teachers import Teacher, teacher_of


def stem_of(name: str, recipe: Recipe) -> str:
    """What files are called: ``NAME``, or ``NAME.seedN`` for another seed than the recipe's own."""
    return name if recipe.seed == recipe_of(name).seed else f"{name}.seed{recipe.seed}"


def publish(name: str, trained: Trained, recipe: Recipe, session: Session) -> dict[str, JSONValue]:
    """Write weights in half precision and their card to ``session.out``; the card measures the rounded weights.

    A seed other than the recipe's own is entered in the card of the recipe's own seed, if that lies there; the card of
    the recipe's own seed collects the others that lie there. Raises :class:`~harness.errors.WeightsError` where the
    two seeds were trained by different recipes, and for a teacher that is no longer the one of the training.
    """
    from safetensors.torch import save_file

    stem = stem_of(name, recipe)
    own = None if stem == name else own_seed_card(name, recipe, session.out)
    teacher = None if recipe.teacher is None else teacher_of(recipe.teacher, session.out)
    if teacher is not None and teacher.sha256 != trained.teacher_sha256:
        raise WeightsError(
            f"{name} learned from another {recipe.teacher} than the one that is there now",
            hint="put its teacher back, or train it anew",
        )
    halves = {
        key: (value.half() if value.is_floating_point() else value).contiguous().cpu()
        for key, value in trained.net.state_dict().items()
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
        "parameters": sum(value.numel() for value in trained.net.parameters()),
        "sha256": hashlib.sha256(file.read_bytes()).hexdigest(),
        "recipe": recipe.as_dict(),
        "recipe_sha256": digest(recipe),
        **({} if teacher is None else {"teacher_sha256": teacher.sha256}),
        "data_fingerprint": dataset.info.fingerprint,
        **_measured(name, rounded, recipe, session, dataset, teacher),
        "trained_with": {"torch": torch.__version__, "device": session.device.type, "machine": platform.machine()},
        "seconds": round(trained.seconds),
    }
    if stem == name:
        card["other_seeds"] = [_entry(other) for other in _other_seeds(name, recipe, session.out)]
    write_card(stem, card, session.out)
    if own is not None:
        others = [other for other in own.get("other_seeds", []) if other["seed"] != card["seed"]]
        own["other_seeds"] = sorted([*others, _entry(card)], key=lambda other: int(other["seed"]))
        write_card(name, own, session.out)
    return card


def own_seed_card(name: str, recipe: Recipe, folder: Path) -> dict[str, Any] | None:
    """The card in ``folder`` of the recipe's own seed, in which ``recipe``'s is to be entered; None if it is not there.

    Raises :class:`~harness.errors.WeightsError` where it is that of a recipe that differs by more than the seed.
    """
    if not card_file(name, folder).exists():
        return None  # trained before the first seed: its own card stands beside the weights
    card = read_card(name, folder)
    if not _same_but_seed(card, recipe):
        raise WeightsError(
            f"{name}: seed {recipe.seed} has another recipe than seed {card.get('seed')} in {card_file(name, folder)}",
            hint=f"python -m harness_mini.train {name} --again --out {folder}, or choose another --out",
        )
    return card


def _other_seeds(name: str, recipe: Recipe, folder: Path) -> list[dict[str, Any]]:
    """Cards of the same recipe with other seeds; others, and what is no card, are left alone."""
    found = []
    for path in folder.glob(f"{name}.seed*.json"):
        try:
            card = read_card(path.stem, folder)
        except WeightsError:
            continue
        if _same_but_seed(card, recipe) and path.stem == f"{name}.seed{card['seed']}" and card["seed"] != recipe.seed:
            found.append(card)
    return sorted(found, key=lambda card: int(card["seed"]))


def _same_but_seed(card: dict[str, Any], recipe: Recipe) -> bool:
    seed = card.get("seed")
    return isinstance(seed, int) and card.get("recipe_sha256") == digest(dataclasses.replace(recipe, seed=seed))


def _entry(card: dict[str, Any]) -> dict[str, JSONValue]:
    return {key: card.get(key) for key in ("seed", "sha256", "accuracy")}


def _measured(
    name: str, net: nn.Module, recipe: Recipe, session: Session, dataset: Shapes, teacher: Teacher | None
) -> dict[str, JSONValue]:
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
    if teacher is not None:
        found["teacher_agrees_with_label"] = _agreement(teacher, recipe, session, dataset)
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


def _agreement(
    teacher: Teacher, recipe: Recipe, session: Session, dataset: Shapes, images: int = 2400
) -> dict[str, JSONValue]:
    """How often the teacher's most likely class is the label, on the first images of the training split."""
    net = teacher.net.to(session.device)
    agreed = 0
    with torch.inference_mode():
        for start in range(0, images, 200):
            lesson = to_device(whole(load(dataset, recipe.split, start, min(200, images - start))), session.device)
            agreed += int((heads(net, lesson)[0].argmax(dim=1) == lesson.labels).sum())
    return _proportion(agreed, images)
