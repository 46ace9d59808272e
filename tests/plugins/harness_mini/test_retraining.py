"""The recipe gives what its card says: a network is trained anew, whole, and asked the same."""

from __future__ import annotations

import pytest
import torch

from harness_mini.cards import read_card
from harness_mini.train import Session, publish, train
from harness_mini.training.recipes import recipe_of


@pytest.mark.slow
def test_retraining_gives_the_accuracy_of_the_card(tmp_path):
    """The quickest of the zoo, about two minutes; on another machine rounding leads to other weights."""
    shipped = read_card("cnn_mini")["accuracy"]["test"]["head"]
    session = Session(out=tmp_path, device=torch.device("cpu"))
    net = train("cnn_mini", recipe_of("cnn_mini"), session)
    assert net is not None
    again = publish("cnn_mini", net, recipe_of("cnn_mini"), session, seconds=0)["accuracy"]["test"]["head"]
    assert again["low"] <= shipped["high"]
    assert again["high"] >= shipped["low"]
