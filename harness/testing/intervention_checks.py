"""Checks of models whose inner tokens can be changed on the way."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, cast

import torch
from torch import Tensor

from harness.errors import CapabilityError
from harness.protocols import SiteTokens, SupportsIntervention
from harness.testing.kit import CheckFunction, NotApplicableError, Subject, expect, expect_refusal
from harness.testing.observe import expect_close, largest_difference, tensors_of
from harness.testing.sample import sample_batch
from harness.types import Capability, ModelInfo, ModelOutputs, OutputSpec

_NO_SITE = "block:9999"


def check_intervention_sites(subject: Subject) -> None:
    """A model that claims interventions has at least one site, and refuses sites it has not by CapabilityError."""
    model, info, _, ids = _tried(subject)
    _sites(model, info, ids)
    expect_refusal(CapabilityError, f"site {_NO_SITE!r}", lambda: _open(model, _NO_SITE, ids))


def check_intervention_identity(subject: Subject) -> None:
    """An intervention that changes nothing leaves the outputs as they are, and sees every image's tokens and id."""
    model, info, images, ids = _tried(subject)
    before = _outputs(model, info, images)
    for site in _sites(model, info, ids):
        seen: list[SiteTokens] = []

        def look(tokens: SiteTokens, seen: list[SiteTokens] = seen) -> SiteTokens:
            seen.append(tokens)
            return tokens

        with model.intervene(site, look, ids=ids):
            inside = _outputs(model, info, images)
        expect(len(seen) == 1, f"{site}: expected one call per forward pass, found {len(seen)}")
        tokens = seen[0]
        expect(tokens.ids == ids, f"{site}: expected the ids {ids}, found {tokens.ids}")
        found = (tuple(tokens.patches.shape[:2]), len(tokens.prefix), tokens.grid)
        cells = tokens.grid[0] * tokens.grid[1]
        held = tokens.kept.shape[1] if tokens.kept is not None else cells
        expect(
            found[:2] == ((len(ids), held), len(ids)),
            f"{site}: expected {held} patches of {len(ids)} images, found {found}",
        )
        expect_close(before, inside, tolerance=1e-5, what=f"{site}: identity")


def check_intervention_takes_effect(subject: Subject) -> None:
    """Setting every token to zero at a site changes what comes out."""
    model, info, images, ids = _tried(subject)
    before = tensors_of(_outputs(model, info, images))
    for site in _sites(model, info, ids):
        with model.intervene(site, _zero, ids=ids):
            inside = tensors_of(_outputs(model, info, images))
        changed = max(largest_difference(before[name], inside[name]) for name in before)
        expect(changed > 0, f"{site}: expected other outputs with every token set to zero, found the same")


def check_intervention_undone(subject: Subject) -> None:
    """When the context closes, also by an exception, the model is what it was before."""
    model, info, images, ids = _tried(subject)
    before = _outputs(model, info, images)
    sites = _sites(model, info, ids)
    for site in dict.fromkeys((sites[0], sites[-1])):
        with model.intervene(site, _zero, ids=ids):
            _outputs(model, info, images)
        expect_close(before, _outputs(model, info, images), tolerance=0.0, what=f"{site}: after the context")
        try:
            with model.intervene(site, _zero, ids=ids):
                raise _LeftEarlyError
        except _LeftEarlyError:
            pass
        expect_close(before, _outputs(model, info, images), tolerance=0.0, what=f"{site}: after an exception inside")


CHECKS: tuple[CheckFunction, ...] = (
    check_intervention_sites,
    check_intervention_identity,
    check_intervention_takes_effect,
    check_intervention_undone,
)


class _LeftEarlyError(Exception):
    """What the kit raises inside an intervention."""


def _tried(subject: Subject) -> tuple[Any, ModelInfo, Tensor, tuple[str, ...]]:
    model = subject.shared
    if Capability.INTERVENTION not in model.info.capabilities:
        raise NotApplicableError("claims no intervention")
    expect(isinstance(model, SupportsIntervention), "intervention is claimed, but there is no intervene()")
    batch = sample_batch([0, 1], side_px=model.info.input_size)
    return model, model.info, batch.images, batch.ids


def _sites(model: SupportsIntervention, info: ModelInfo, ids: tuple[str, ...]) -> list[str]:
    """The sites there are, of the first, the last and the special ones."""
    candidates = dict.fromkeys(("pos_embed", "block:0", f"block:{info.num_blocks - 1}", "stage:0", "pool"))
    found = []
    for site in candidates:
        try:
            _open(model, site, ids)
        except CapabilityError:
            continue
        found.append(site)
    expect(bool(found), f"intervention is claimed; expected one of the sites {', '.join(candidates)}, found none")
    return found


def _open(model: SupportsIntervention, site: str, ids: tuple[str, ...]) -> None:
    with model.intervene(site, lambda tokens: tokens, ids=ids):
        pass


def _zero(tokens: SiteTokens) -> SiteTokens:
    return replace(tokens, prefix=torch.zeros_like(tokens.prefix), patches=torch.zeros_like(tokens.patches))


def _outputs(model: Any, info: ModelInfo, images: Tensor) -> ModelOutputs:
    want = OutputSpec(
        logits=Capability.LOGITS in info.capabilities,
        pooled=Capability.POOLED in info.capabilities,
        normed_tokens=frozenset({info.num_blocks - 1}) if Capability.TOKENS in info.capabilities else frozenset(),
    )
    return cast("ModelOutputs", model.outputs(images, want))
