"""The identity perturbation gives back the very batch, and says so on its card."""

from __future__ import annotations

import numpy as np
import torch

from harness.builtin import harness_register_perturbations
from harness.clean import Clean
from harness.protocols import Perturbation
from harness.targets import load_target
from harness.types import ImageBatch


def test_it_gives_back_the_very_batch() -> None:
    images = torch.rand(2, 3, 4, 4)
    batch = ImageBatch(images=images, labels=torch.tensor([0, 1]), ids=("a", "b"), positions=np.arange(2))
    clean = Clean()
    before = images.clone()
    assert clean.apply(batch, clean.begin(batch), None) is batch
    assert torch.equal(images, before)


def test_its_card_agrees_with_its_entry() -> None:
    (entry,) = harness_register_perturbations()
    component = load_target(entry)()
    assert isinstance(component, Perturbation)
    info = component.info
    assert (info.name, info.stage, info.level, info.stochastic) == (
        entry.name,
        entry.stage,
        entry.level,
        entry.stochastic,
    )
    assert (info.linf, info.needs_target, info.version, info.params) == (0.0, False, entry.version, {})
