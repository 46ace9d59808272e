"""Descriptors of the attacks of torchattacks, each reached as ``torchattacks:NAME``.

All of ``torchattacks.__all__`` but two: ``MultiAttack`` puts other attacks together, and ``LGV`` trains the model
further on a data loader of its own before it attacks what comes of that.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from harness.entries import PerturbationEntry
from harness.hookspecs import hookimpl
from harness_attacks.parameters import EPS_255
from harness_attacks.torchattacks_table import TORCHATTACKS

if TYPE_CHECKING:
    from collections.abc import Iterable


@hookimpl
def harness_register_perturbations() -> Iterable[PerturbationEntry]:
    """Offer every attack of the library."""
    for attack in TORCHATTACKS.values():
        yield PerturbationEntry(
            name=attack.name,
            target=f"harness_attacks.torchattacks_attack:{attack.library_name}",
            summary=attack.summary,
            params=attack.params(),
            level=None if attack.norm is None else EPS_255,
            stochastic=attack.stochastic,
            needs_target=True,
            target_param="attack_target",
            source_param="source",
            model_params=("source",),
            extra="attacks",
            qualified=True,
            tags=("attack", "torchattacks"),
        )
