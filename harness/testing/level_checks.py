"""Checks of a perturbation's strength axis: rising, nested where claimed, and nothing at its identity level."""

from __future__ import annotations

import torch

from harness.testing.kit import CheckFunction, NotApplicableError, Subject, expect
from harness.testing.observe import largest_difference
from harness.testing.perturbation_trial import Trial, prepared
from harness.types import ImageBatch, LevelSpec, OutputSpec

FALL_ALLOWED = 0.02
"""How far, relative to the largest, distortion may fall from one level to the next: levels need not be nested."""

ERRORS_ALLOWED = 3
"""How many standard errors of the mean more, where each level draws anew."""


def check_distortion_rises(subject: Subject) -> None:
    """Distortion, the mean change against the clean batch, does not fall along the sweep of levels."""
    trial, batch, level = _levelled(subject)
    _need(len(level.values) > 1, "has a single level")
    clean = _clean_values(trial, batch)
    state = trial.perturbation.begin(batch)
    by_image = [
        (trial.apply(batch, state, value).values - clean).abs().flatten(1).mean(dim=1).double()
        for value in level.values
    ]
    changes = [float(change.mean()) for change in by_image]
    allowed = FALL_ALLOWED * max(changes)
    for i in range(1, len(changes)):
        # Levels that draw anew rise in expectation only; a few images show it to the error of their mean.
        drawn_anew = trial.info.stochastic and not level.nested and len(batch) > 1
        error = float((by_image[i] - by_image[i - 1]).std()) / len(batch) ** 0.5 if drawn_anew else 0.0
        expect(
            changes[i] >= changes[i - 1] - allowed - ERRORS_ALLOWED * error,
            f"distortion must not fall along the sweep: at {level.name} {level.values[i - 1]:g} mean change "
            f"{changes[i - 1]:.4g}, at {level.values[i]:g} {changes[i]:.4g}",
        )
    expect(
        changes[-1] > 0,
        f"expected a change at the highest {level.name} of the sweep, {level.values[-1]:g}, found none",
    )


def check_levels_nested(subject: Subject) -> None:
    """Where levels are said to be nested, pixels changed at a level stay changed at every higher one."""
    trial, batch, level = _levelled(subject)
    _need(level.nested, "does not claim nested levels")
    _need(trial.acts_on_images, "acts on the model, where no pixels can be compared")
    state = trial.perturbation.begin(batch)
    before = torch.zeros(batch.images.shape[0], *batch.images.shape[2:], dtype=torch.bool)
    for lower, value in zip((None, *level.values), level.values, strict=False):
        changed = (trial.apply(batch, state, value).batch.images != batch.images).any(dim=1)
        back = int((before & ~changed).sum())
        expect(back == 0, f"{back} pixels changed at {level.name} {lower} are the clean ones again at {value:g}")
        before = changed


def check_realised_loss_rises(subject: Subject) -> None:
    """Where levels are nested, the realised loss that the entry names does not fall for any image."""
    trial, batch, level = _levelled(subject)
    loss = getattr(subject.entry, "loss", None)
    _need(level.nested and loss is not None, "does not claim nested levels with a realised loss")
    assert loss is not None
    state = trial.perturbation.begin(batch)
    before = torch.full((len(batch),), -torch.inf, dtype=torch.float64)
    for value in level.values:
        realised = trial.apply(batch, state, value).batch.realised[loss]
        for row in range(len(batch)):
            low, high = float(before[row]), float(realised[row])
            expect(high >= low, f"{loss} of image {row} falls from {low:.4g} to {high:.4g} at {level.name} {value:g}")
        before = realised


def check_identity_level(subject: Subject) -> None:
    """At its identity level, where it names one, a perturbation changes nothing at all."""
    trial, batch, level = _levelled(subject)
    _need(level.identity is not None, "names no identity level")
    distance = largest_difference(_clean_values(trial, batch), trial.run(batch, level.identity).values)
    expect(distance == 0, f"expected no change at {level.name} {level.identity:g}, found up to {distance:.3g}")


def check_levels_share_a_beginning(subject: Subject) -> None:
    """Levels applied from one beginning give the same in any order."""
    trial, batch, level = _levelled(subject)
    alone = {value: trial.run(batch, value).values for value in level.values}
    state = trial.perturbation.begin(batch)
    for value in reversed(level.values):
        distance = largest_difference(alone[value], trial.apply(batch, state, value).values)
        expect(
            distance == 0,
            f"at {level.name} {value:g}, after higher levels of the same batch: expected what a fresh beginning gives, "
            f"found up to {distance:.3g} between",
        )


CHECKS: tuple[CheckFunction, ...] = (
    check_distortion_rises,
    check_levels_nested,
    check_realised_loss_rises,
    check_identity_level,
    check_levels_share_a_beginning,
)


def _levelled(subject: Subject) -> tuple[Trial, ImageBatch, LevelSpec]:
    trial, batch = prepared(subject, all_levels=True)
    if trial.info.level is None:
        raise NotApplicableError("has no levels")
    return trial, batch, trial.info.level


def _clean_values(trial: Trial, batch: ImageBatch) -> torch.Tensor:
    if trial.acts_on_images:
        return batch.images
    pooled = trial.backbone.outputs(batch.images, OutputSpec(pooled=True)).pooled
    assert pooled is not None
    return pooled


def _need(held: bool, reason: str) -> None:
    if not held:
        raise NotApplicableError(reason)
