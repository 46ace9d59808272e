"""Teachers: trained networks of the zoo that others learn from."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from torch import nn

from harness.errors import WeightsError
from harness.state_dicts import load_strict, read_state_dict
from harness.weights import file_digest
from harness_mini.cards import card_file, read_card, weights_file
from harness_mini.networks import build


@dataclass(frozen=True, slots=True, kw_only=True)
class Teacher:
    """A trained network, and the SHA-256 (hex) of the file it was read from."""

    net: nn.Module
    sha256: str


def teacher_of(name: str, out: Path) -> Teacher:
    """The trained network ``name`` from ``out``, or else from the package.

    Raises :class:`~harness.errors.WeightsError` where neither has its weights, and for weights that are not those of
    the card beside them.
    """
    file = next((file for file in (weights_file(name, out), weights_file(name)) if file.is_file()), None)
    if file is None:
        raise WeightsError(
            f"the teacher {name} has no weights in {out} or in the package", hint=f"python -m harness_mini.train {name}"
        )
    sha256 = file_digest(file)
    if card_file(name, file.parent).exists() and read_card(name, file.parent)["sha256"] != sha256:
        raise WeightsError(
            f"the teacher {file} is not the file that its card speaks of",
            hint=f"python -m harness_mini.train {name} --again --out {file.parent}",
        )
    net = build(name, seed=0)
    load_strict(net, read_state_dict(file), source=str(file))
    return Teacher(net=net.eval(), sha256=sha256)
