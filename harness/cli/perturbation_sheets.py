"""What ``harness show`` draws of a perturbation: which images, under which view, relative to which model."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, cast

from harness.cli.sheets import places
from harness.errors import CapabilityError, DataError, UsageError

if TYPE_CHECKING:
    from pathlib import Path

    from PIL import Image

    from harness.catalog import Catalog
    from harness.cli.sheets import SheetOptions
    from harness.components import ModelComponent, PerturbationComponent
    from harness.grammar import Selector
    from harness.protocols import Dataset, Model, Perturbation, SupportImages
    from harness.types import ImageBatch, View

_MOST_IMAGES = 24
_OF_A_MODEL = ("--weights", "--allow-missing")
_OF_A_DATASET = ("--index", "--split", "--data")
_OF_IMAGES = ("--view", "--model", *_OF_A_MODEL, "--seed")
_GIVE_MODEL = "name the evaluated model with --model"


@dataclass(frozen=True, slots=True, kw_only=True)
class _Images:
    """Images to perturb, each with its title, and what a perturbation may know of where they are from."""

    batch: ImageBatch
    titles: tuple[str, ...]
    fingerprint: str
    num_classes: int
    label_space: str | None
    num_images: int
    support: SupportImages | None


def perturbation_drawing(
    catalog: Catalog, selector: Selector, found: Mapping[str, Any], view: View | None, options: SheetOptions
) -> Callable[[], Image.Image] | str:
    """What draws the levels of the perturbation on the images asked for, or what must be given before it can.

    ``view`` is the one that was asked for, if any. Raises :class:`UsageError` for options that contradict each other
    or have no effect, what the lookup of a name raises, and :class:`~harness.errors.DataError` for an image file that
    is not there.
    """
    name, stage = selector.qualified_name, found["facts"]["stage"]
    catalog.resolve("perturbation", selector)
    _check_options(options)
    if stage != "image":
        return f"there is nothing to see: {name} acts inside a model (stage {stage}) and changes no pixels"
    if not options.image_files and options.dataset is None:
        return "give --image FILE, or --dataset NAME --index N"
    positions = places(options.index or "0", most=_MOST_IMAGES)
    for path in options.image_files:
        _check_image(path)
    from harness.components import model_component, perturbation_component, resolve_dataset
    from harness.weights import parse_weights

    component = perturbation_component(catalog, selector.text)
    weights = parse_weights(options.weights or "pretrained", allow_missing=options.allow_missing)
    model = None if options.model is None else model_component(catalog, options.model, weights)
    if (lacking := _model_lacking(component, model)) is not None:
        return lacking
    place = None if options.data is None else str(options.data)
    dataset = None if options.dataset is None else resolve_dataset(catalog, options.dataset, place)

    if view is None and options.view == "model" and model is not None:
        view = model.view

    def draw() -> Image.Image:
        seen = view or _default_view(component, model)
        if dataset is None:
            images = _from_files(options.image_files, seen)
        else:
            images = _from_dataset(cast("Dataset", catalog.instantiate(dataset)), options.split, positions, seen)
        return _drawn(component, model, images, seen, selector.text, options)

    return draw


# --- what was asked for ----------------------------------------------------------------------------------------


def _check_options(options: SheetOptions) -> None:
    if options.image_files and options.dataset is not None:
        raise UsageError(
            "--image and --dataset were both given", hint="a sheet shows image files, or images of a dataset"
        )
    if options.dataset is None and (alone := [option for option in options.given if option in _OF_A_DATASET]):
        raise UsageError(
            f"{' and '.join(alone)} can have no effect without --dataset", hint="name one, such as --dataset shapes"
        )
    if options.model is None and (alone := [option for option in options.given if option in _OF_A_MODEL]):
        raise UsageError(f"{' and '.join(alone)} can have no effect without --model", hint=_GIVE_MODEL)
    if not options.image_files and options.dataset is None:
        alone = [option for option in options.given if option in _OF_IMAGES]
        if alone:
            raise UsageError(
                f"{' and '.join(alone)} can have no effect without images",
                hint="give --image FILE, or --dataset NAME --index N",
            )
    if len(options.image_files) > _MOST_IMAGES:
        raise UsageError(f"--image was given {len(options.image_files)} times; a sheet has room for {_MOST_IMAGES}")


def _check_image(path: Path) -> None:
    if not path.is_file():
        found = "this is a folder" if path.is_dir() else "there is no such file"
        raise DataError(f"--image {path}: {found}", hint="--image names one image file; give it again for another")


def _model_lacking(component: PerturbationComponent, model: ModelComponent | None) -> str | None:
    """That a model must be named, if so. Raises :class:`CapabilityError` for one that does not give what it must."""
    name, needs = component.ref.name, " and ".join(sorted(component.needs))
    if component.target == "probe":
        raise UsageError(
            f"{name} aims at a fitted probe, and there is none here",
            hint="aim it at the model's head instead (target=head)",
        )
    if not component.needs:
        return None
    if model is None:
        what = f"{name} attacks its head" if component.target else f"{name} needs its {needs}"
        return f"give --model NAME: {what}"
    if missing := component.needs - model.capabilities:
        raise CapabilityError(
            f"perturbation {name} needs {' and '.join(sorted(missing))}, which model {model.ref.name} does not have"
        )
    return None


def _default_view(component: PerturbationComponent, model: ModelComponent | None) -> View:
    """That of the evaluated model, else of the model that a map comes from, else the size of the papers.

    A view that only crops is made to resize: it is meant for images drawn at its size, and would show no more than
    the middle of a photograph.
    """
    from harness.report.perturbation_sheets import DEFAULT_VIEW

    models = [*(() if model is None else (model,)), *component.injected.values()]
    if not models:
        return DEFAULT_VIEW
    view: View = models[0].view
    return dataclasses.replace(view, resize=view.crop, interpolation="bicubic") if view.resize is None else view


# --- images ----------------------------------------------------------------------------------------------------


def _from_files(paths: tuple[Path, ...], view: View) -> _Images:
    """Image files, which have no classes. A file's content is its id, so that its name and place change nothing."""
    import hashlib

    import numpy as np

    from harness.views import decode, render, to_batch

    pixels = np.stack([render(decode(path), view, name=str(path)) for path in paths])
    ids = [hashlib.sha256(path.read_bytes()).hexdigest() for path in paths]
    return _Images(
        batch=to_batch(pixels, labels=[0] * len(ids), ids=ids, positions=range(len(ids))),
        titles=tuple(map(str, paths)),
        fingerprint="files",
        num_classes=1,
        label_space=None,
        num_images=len(ids),
        support=None,
    )


def _from_dataset(dataset: Dataset, split: str | None, positions: tuple[int, ...], view: View) -> _Images:
    """Images of a dataset, perturbed as in a run over the whole of their split."""
    info = dataset.info
    split = split or info.query_split
    size = len(dataset.index(split))
    if outside := [position for position in positions if position >= size]:
        raise UsageError(
            f"--index {outside[0]}: split {split} of {info.name} has {size:,} image{'' if size == 1 else 's'}",
            hint=f"give places from 0 to {size - 1}" if size else "choose another with --split",
        )
    batch = dataset.load(split, positions, view)
    if not len(batch):
        raise DataError(f"none of the images asked for of {info.name} can be read")
    shown = zip(batch.positions.tolist(), batch.labels.tolist(), batch.ids, strict=True)
    return _Images(
        batch=batch,
        titles=tuple(f"{split} {position}: {info.classes[label]} ({name})" for position, label, name in shown),
        fingerprint=info.fingerprint,
        num_classes=len(info.classes),
        label_space=info.label_space,
        num_images=size,
        support=None if info.support_split is None else lambda limit=None: _support(dataset, view, limit),
    )


def _support(dataset: Dataset, view: View, limit: int | None) -> Iterator[ImageBatch]:
    from harness.loader import BatchSize, load_batches
    from harness.sampling import stratified

    split = dataset.info.support_split
    assert split is not None
    positions = stratified(dataset.index(split), limit)
    batches = load_batches(dataset, split, positions, view, batch_size=BatchSize(64), workers=0)
    yield from (batch for _, batch in batches)


# --- drawing ---------------------------------------------------------------------------------------------------


def _drawn(
    component: PerturbationComponent,
    model: ModelComponent | None,
    images: _Images,
    view: View,
    name: str,
    options: SheetOptions,
) -> Image.Image:
    from harness.report.perturbation_sheets import perturbation_sheet

    evaluated = None if model is None else model.build()
    words = [name, f"view {view.text}"]
    if component.stochastic:
        words.insert(1, f"seed {options.seed or 0}")
    if model is not None:
        words.append(f"model {model.ref.name}")
    victim = evaluated if component.source is None else component.source.build()
    if component.target == "probe":
        raise CapabilityError(
            f"{component.ref.name} aims at a fitted probe, which a picture has not",
            hint="leave attack_target=probe out",
        )
    if (component.target or component.source) and victim is not None and not _share_labels(images, victim):
        images = _as_the_model_sees_them(images, victim)
        words.append("labels as the model sees them")
    try:
        perturbation = _prepared(component, evaluated, victim, images, view, options.seed or 0)
        return perturbation_sheet(
            perturbation, images.batch, levels=component.levels, titles=images.titles, heading=", ".join(words)
        )
    except CapabilityError as error:
        if evaluated is not None:
            raise
        hint = _GIVE_MODEL if error.hint is None else f"{error.hint}; or, if that is what is missing, {_GIVE_MODEL}"
        raise CapabilityError(error.message, hint=hint) from error


def _share_labels(images: _Images, model: Model) -> bool:
    from harness.label_maps import find_label_map

    return find_label_map(model.info.label_space, images.label_space) is not None


def _as_the_model_sees_them(images: _Images, model: Model) -> _Images:
    """The images labelled by the model's own head: what an attack leads away from where nobody knows better."""
    import torch

    from harness.forward import head_scores

    with torch.inference_mode():
        scores = head_scores(model)(images.batch.images)
    # A label made inside inference mode could take no part in gradients.
    labels = torch.tensor(scores.argmax(dim=1).tolist(), dtype=torch.int64)
    batch = dataclasses.replace(images.batch, labels=labels)
    return dataclasses.replace(images, batch=batch, num_classes=scores.shape[1], label_space=None)


def _prepared(
    component: PerturbationComponent,
    evaluated: Model | None,
    victim: Model | None,
    images: _Images,
    view: View,
    seed: int,
) -> Perturbation:
    """The perturbation as the engine prepares it, on the CPU and without a cache; an attack leads ``victim`` away."""
    import torch

    from harness.errors import PluginError
    from harness.forward import head_scores
    from harness.protocols import Perturbation, PerturbationContext

    is_attack = component.target is not None or component.source is not None
    perturbation = component.build()
    if not isinstance(perturbation, Perturbation):
        raise PluginError(f"perturbation {component.ref.name} is said to act on images, but has no apply")
    perturbation.prepare(
        PerturbationContext(
            seed=seed,
            view=view,
            device=torch.device("cpu"),
            dataset_fingerprint=images.fingerprint,
            num_classes=images.num_classes,
            models={parameter: injected.build() for parameter, injected in component.injected.items()},
            evaluated=evaluated,
            num_images=images.num_images,
            target=head_scores(victim, images.label_space) if is_attack and victim is not None else None,
            support=images.support,
        )
    )
    return perturbation
