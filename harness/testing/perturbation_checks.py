"""Checks of perturbations: what they keep, what they may draw from, and what they must leave alone."""

from __future__ import annotations

from typing import Any

import torch

from harness.entries import PerturbationEntry
from harness.testing.kit import CheckFunction, NotApplicableError, Subject, expect
from harness.testing.observe import (
    copy_of,
    differing_fields,
    expect_close,
    global_randomness_untouched,
    largest_difference,
    pixel_receipts,
)
from harness.testing.perturbation_trial import Trial, prepared
from harness.testing.sample import take_images
from harness.types import ImageBatch, OutputSpec


def check_images_well_formed(subject: Subject) -> None:
    """Perturbed images keep their shape, are float32 and finite, and lie in [0, 1]."""
    trial, batch = _image_trial(subject)
    for level in trial.levels:
        images, at = trial.run(batch, level).batch.images, trial.at(level)
        expect(
            images.shape == batch.images.shape and images.dtype == torch.float32,
            f"{at}: expected {tuple(batch.images.shape)} float32, found {tuple(images.shape)} {images.dtype}",
        )
        expect(bool(images.isfinite().all()), f"{at}: expected finite pixels, found NaN or infinity")
        low, high = float(images.min()), float(images.max())
        expect(low >= 0 and high <= 1, f"{at}: expected pixels in [0, 1], found {low:.4g} to {high:.4g}")


def check_labels_and_ids_kept(subject: Subject) -> None:
    """Labels, ids, positions and further columns of a batch come through unchanged."""
    trial, batch = prepared(subject)
    for level in trial.levels:
        wrong = [name for name in differing_fields(batch, trial.run(batch, level).batch) if name not in _MAY_CHANGE]
        expect(not wrong, f"{trial.at(level)}: expected {', '.join(wrong)} as given, found them changed")


_MAY_CHANGE = ("images", "masks", "regions", "taken")


def check_batch_untouched(subject: Subject) -> None:
    """The batch given is not changed in place."""
    trial, batch = prepared(subject)
    given = copy_of(batch)
    for level in trial.levels:
        trial.run(given, level)
        wrong = differing_fields(batch, given)
        expect(
            not wrong, f"{trial.at(level)}: expected the caller's batch left alone, found its {_words(wrong)} changed"
        )


def check_same_seed_same_result(subject: Subject) -> None:
    """The same seed gives the same bits, from a component made anew as well."""
    trial, batch = prepared(subject)
    again, _ = prepared(subject)
    for level in trial.levels:
        distance = largest_difference(trial.run(batch, level).values, again.run(batch, level).values)
        expect(
            distance == 0, f"{trial.at(level)}: expected the same with seed 0 twice, found up to {distance:.3g} between"
        )


def check_seed_matters_as_declared(subject: Subject) -> None:
    """Another seed changes the result if the perturbation is stochastic, and nothing if it is not."""
    trial, batch = prepared(subject)
    other, _ = prepared(subject, seed=1)
    distance = max(
        largest_difference(trial.run(batch, level).values, other.run(batch, level).values) for level in trial.levels
    )
    if trial.info.stochastic:
        expect(distance > 0, "declared stochastic, but expected another result with seed 1, found that of seed 0")
    else:
        expect(distance == 0, f"not declared stochastic, but seeds 0 and 1 differ by up to {distance:.3g}")


def check_independent_of_batch(subject: Subject) -> None:
    """What is done to an image depends on its id and seed alone, not on batch size, order or shard."""
    trial, batch = prepared(subject)
    if not trial.info.keyed:
        raise NotApplicableError("agrees between batches in outcome only, as declared")
    n = len(batch)
    for level in trial.levels:
        whole = trial.run(batch, level)
        for rows in ([*range(n)][::-1], *([row] for row in range(n))):
            part, _ = prepared(subject)
            found = part.run(take_images(batch, rows), level)
            name = "the batch reversed" if len(rows) == n else f"image {rows[0]} alone"
            if trial.acts_on_images:
                wrong = [
                    batch.ids[row]
                    for row, receipt in zip(rows, pixel_receipts(found.batch.images), strict=True)
                    if receipt != pixel_receipts(whole.batch.images)[row]
                ]
                expect(
                    not wrong, f"{trial.at(level)}: {name}: expected the same pixels, found others for {_words(wrong)}"
                )
            else:
                distance = largest_difference(whole.values[rows], found.values)
                expect(
                    distance <= 1e-4,
                    f"{trial.at(level)}: {name}: expected the same features, found {distance:.3g} between",
                )


def check_global_randomness_untouched(subject: Subject) -> None:
    """Building, preparing and applying leave the global random state alone."""
    with global_randomness_untouched("building and prepare()"):
        trial, batch = prepared(subject)
    for level in trial.levels:
        with global_randomness_untouched(f"{trial.at(level)}"):
            trial.run(batch, level)


def check_bound_held(subject: Subject) -> None:
    """No pixel changes by more than the bound that is promised."""
    trial, batch = _image_trial(subject)
    budget = trial.info.level is not None and trial.info.level.name == "eps_255"
    if trial.info.linf is None and not budget:
        raise NotApplicableError("promises no bound")
    for level in trial.levels:
        bounds = [trial.info.linf] if trial.info.linf is not None else []
        if budget and level is not None:
            bounds.append(level / 255)
        bound = min(bounds)
        found = largest_difference(batch.images, trial.run(batch, level).batch.images)
        expect(found <= bound + 1e-6, f"{trial.at(level)}: expected changes of at most {bound:.6g}, found {found:.6g}")


def check_realised_values(subject: Subject) -> None:
    """What was realised is one finite float64 per image, and the loss that the entry names is among it."""
    trial, batch = prepared(subject)
    assert isinstance(subject.entry, PerturbationEntry)
    loss = subject.entry.loss
    for level in trial.levels:
        realised, at = trial.run(batch, level).batch.realised, trial.at(level)
        expect(loss is None or loss in realised, f"{at}: expected {loss} to be recorded, found {_words(realised)}")
        for name, column in realised.items():
            found = f"{tuple(column.shape)} {column.dtype}"
            right = column.shape == (len(batch),) and column.dtype == torch.float64
            expect(right, f"{at}: {name}: expected ({len(batch)},) float64, found {found}")
            expect(bool(column.isfinite().all()), f"{at}: {name}: expected finite values, found {column.tolist()}")


def check_model_restored(subject: Subject) -> None:
    """When the context of a feature or model perturbation closes, also by an exception, the model is what it was."""
    trial, batch = prepared(subject)
    if trial.acts_on_images:
        raise NotApplicableError("acts on images, not on the model")
    want = OutputSpec(logits=True, pooled=True)
    before = trial.backbone.outputs(batch.images, want)
    state = {name: value.clone() for name, value in trial.backbone.net.state_dict().items()}
    for level in trial.levels:
        for how in ("the context", "an exception inside"):
            try:
                with trial.around(batch, level) as (model, perturbed):
                    model.outputs(perturbed.images, want)
                    if how != "the context":
                        raise _LeftEarlyError
            except _LeftEarlyError:
                pass
            after = f"{trial.at(level)}: after {how}"
            expect_close(before, trial.backbone.outputs(batch.images, want), tolerance=0.0, what=after)
            changed = [
                name for name, value in trial.backbone.net.state_dict().items() if not torch.equal(value, state[name])
            ]
            expect(not changed, f"{after}: expected the model's weights left alone, found {_words(changed)} changed")


CHECKS: tuple[CheckFunction, ...] = (
    check_images_well_formed,
    check_labels_and_ids_kept,
    check_batch_untouched,
    check_same_seed_same_result,
    check_seed_matters_as_declared,
    check_independent_of_batch,
    check_global_randomness_untouched,
    check_bound_held,
    check_realised_values,
    check_model_restored,
)


class _LeftEarlyError(Exception):
    """What the kit raises inside a perturbation's context."""


def _image_trial(subject: Subject) -> tuple[Trial, ImageBatch]:
    trial, batch = prepared(subject)
    if not trial.acts_on_images:
        raise NotApplicableError(f"acts on {trial.info.stage}s, not on images")
    return trial, batch


def _words(names: Any) -> str:
    return ", ".join(names) or "nothing"
