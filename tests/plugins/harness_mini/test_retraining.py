"""The recipe gives what its card says: a network is trained anew, whole, and asked the same."""

from __future__ import annotations

import pytest
import torch

from harness_mini.cards import read_card
from harness_mini.train import train
from harness_mini.training.publishing import publish
from harness_mini.training.recipes import recipe_of
from harness_mini.training.session import Session


@pytest.mark.slow
def test_retraining_gives_the_accuracy_of_the_card(tmp_path):
    """The quickest of the zoo, about two minutes. Rounding differs between machines, so the weights do, too."""
    shipped = read_card("cnn_mini")["accuracy"]["test"]["head"]
    session = Session(out=tmp_path, device=torch.device("cpu"))
    trained = train("cnn_mini", recipe_of("cnn_mini"), session)
    assert trained is not None
    again = publish("cnn_mini", trained, recipe_of("cnn_mini"), session)["accuracy"]["test"]["head"]
    assert shipped["low"] <= again["value"] <= shipped["high"]
