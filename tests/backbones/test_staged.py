"""Networks in stages: a hand-made one, each part of which is a known function."""

from dataclasses import replace

import pytest
import torch
from torch import nn

from harness.backbones.staged import StagedModel, Stages, chain, unchanged
from harness.errors import CapabilityError
from harness.types import Capability, ModelInfo, OutputSpec, View, WeightsInfo

SIDE = 8
HEAD = torch.tensor([[1.0, -1.0, 0.5], [0.0, 2.0, 1.0]])
EVERYTHING = OutputSpec(logits=True, pooled=True, tokens=frozenset({0, 1, 2}), normed_tokens=frozenset({0, 1, 2}))


class Parts(nn.Module):
    """Counts how often each of its parts is run."""

    def __init__(self):
        super().__init__()
        self.calls = []

    def part(self, name, function):
        def run(x):
            self.calls.append(name)
            return function(x)

        return run


def wrapped(**changes):
    """Stages: halve the side by picking; add one; halve again and double; square. The norm takes three away."""
    net = Parts()
    parts = {
        "stem": lambda x: x[:, :, ::2, ::2],
        "norm": lambda x: x - 3,
        "pool": lambda x: x.amax(dim=(2, 3)),
        "classify": lambda pooled: pooled @ HEAD.T,
    }
    stages = [lambda x: x + 1, lambda x: 2 * x[:, :, ::2, ::2], lambda x: x**2]
    described = {
        **{name: net.part(name, function) for name, function in parts.items()},
        "stages": [net.part(f"stage:{i}", stage) for i, stage in enumerate(stages)],
        "embed_dim": 3,
        "pooled_dim": 3,
        "num_classes": 2,
    }
    return StagedModel(net, card(), Stages(**{**described, **changes}))


def card():
    return ModelInfo(
        name="parts",
        family="parts",
        weights=WeightsInfo(origin="random", identity="random:parts:0"),
        view=View(crop=SIDE),
        mean=(0.0, 0.0, 0.0),
        std=(1.0, 1.0, 1.0),
        label_space="two",
        num_classes=None,
        num_blocks=0,
        embed_dim=0,
    )


@pytest.fixture
def images():
    return torch.rand(2, 3, SIDE, SIDE, generator=torch.Generator().manual_seed(0))


def test_every_part_is_run_in_order_and_once(images):
    model = wrapped()
    outputs = model.outputs(images, EVERYTHING)
    assert model.net.calls == ["stem", "stage:0", "stage:1", "stage:2", "norm", "pool", "classify"]
    after = [images[:, :, ::2, ::2] + 1]
    after.append(2 * after[0][:, :, ::2, ::2])
    after.append(after[1] ** 2)
    for i, x in enumerate(after):
        assert outputs.tokens[i].grid == tuple(x.shape[2:])
        assert outputs.tokens[i].prefix.shape == (2, 0, 3)
        for row in range(x.shape[2]):
            for column in range(x.shape[3]):
                place = outputs.tokens[i].patches[:, row * x.shape[3] + column]
                assert torch.equal(place, x[:, :, row, column])
    pooled = (after[2] - 3).amax(dim=(2, 3))
    assert torch.equal(outputs.pooled, pooled)
    torch.testing.assert_close(outputs.logits["head"], pooled @ HEAD.T)
    assert torch.equal(outputs.normed_tokens[2].patches, outputs.tokens[2].patches - 3)
    for i in (0, 1):
        assert torch.equal(outputs.normed_tokens[i].patches, outputs.tokens[i].patches)


@pytest.mark.parametrize(
    ("want", "calls"),
    [
        (OutputSpec(tokens=frozenset({0})), ["stem", "stage:0"]),
        (OutputSpec(normed_tokens=frozenset({1})), ["stem", "stage:0", "stage:1"]),
        (OutputSpec(tokens=frozenset({2})), ["stem", "stage:0", "stage:1", "stage:2"]),
        (OutputSpec(normed_tokens=frozenset({2})), ["stem", "stage:0", "stage:1", "stage:2", "norm"]),
        (OutputSpec(pooled=True), ["stem", "stage:0", "stage:1", "stage:2", "norm", "pool"]),
    ],
)
def test_nothing_is_run_that_was_not_asked_for(images, want, calls):
    model = wrapped()
    model.outputs(images, want)
    assert model.net.calls == calls


def test_the_pool_site_stands_behind_the_norm(images):
    model, seen = wrapped(), []
    with model.intervene("pool", lambda tokens: seen.append(tokens) or tokens, ids=("a", "b")):
        outputs = model.outputs(images, EVERYTHING)
    assert torch.equal(seen[0].patches, outputs.normed_tokens[2].patches)
    assert (seen[0].grid, seen[0].ids, seen[0].kept) == ((2, 2), ("a", "b"), None)
    with model.intervene("pool", lambda tokens: replace(tokens, patches=tokens.patches + 5), ids=("a", "b")):
        moved = model.outputs(images, EVERYTHING)
    assert torch.equal(moved.pooled, outputs.pooled + 5)
    assert torch.equal(moved.normed_tokens[2].patches, outputs.normed_tokens[2].patches)


def test_a_site_stands_in_front_of_its_stage(images):
    model = wrapped()
    clean = model.outputs(images, EVERYTHING)
    for i in range(3):
        with model.intervene(f"stage:{i}", lambda t: replace(t, patches=t.patches * 0), ids=("a", "b")):
            found = model.outputs(images, EVERYTHING)
        nothing = [1.0, 0.0, 0.0][i]
        assert torch.equal(found.tokens[i].patches, torch.full_like(found.tokens[i].patches, nothing))
        for before in range(i):
            assert torch.equal(found.tokens[before].patches, clean.tokens[before].patches)
    with pytest.raises(CapabilityError, match="no site"), model.intervene("stage:3", unchanged, ids=()):
        pass


def test_a_classifier_may_read_the_map(images):
    model = wrapped(classify=lambda x: x.mean(dim=(2, 3)) @ HEAD.T, classify_reads="map")
    outputs = model.outputs(images, EVERYTHING)
    x = outputs.normed_tokens[2].patches
    torch.testing.assert_close(outputs.logits["head"], x.mean(dim=1) @ HEAD.T)
    assert torch.equal(outputs.pooled, x.amax(dim=1))
    model.net.calls.clear()
    model.outputs(images, OutputSpec(logits=True))
    assert "pool" not in model.net.calls
    with model.intervene("pool", lambda tokens: replace(tokens, patches=tokens.patches * 0), ids=("a", "b")):
        found = model.outputs(images, OutputSpec(logits=True, pooled=True))
    assert not found.logits["head"].any()
    assert not found.pooled.any()


def test_without_classes_there_are_no_logits(images):
    model = wrapped(num_classes=0)
    info = model.info
    assert (info.num_classes, info.heads, info.label_space) == (None, (), None)
    assert info.capabilities == frozenset(
        {Capability.POOLED, Capability.TOKENS, Capability.GRADIENTS, Capability.INTERVENTION}
    )
    with pytest.raises(CapabilityError, match="gives no logits"):
        model.outputs(images, OutputSpec(logits=True))
    assert torch.equal(
        model.outputs(images, OutputSpec(pooled=True)).pooled, wrapped().outputs(images, EVERYTHING).pooled
    )


def test_the_card_is_read_off_the_stages():
    info = wrapped(pooled_dim=7).info
    assert (info.num_blocks, info.embed_dim, info.pooled_dim, info.num_classes) == (3, 3, 7, 2)
    assert (info.heads, info.label_space, info.prefix, info.patch_size) == (("head",), "two", (), None)


def test_without_a_norm_the_normed_tokens_are_the_tokens(images):
    outputs = wrapped(norm=unchanged).outputs(images, EVERYTHING)
    for i in range(3):
        assert torch.equal(outputs.normed_tokens[i].patches, outputs.tokens[i].patches)


def test_a_chain_is_its_parts_in_order_each_time():
    run = chain(part for part in (lambda x: x + 1, lambda x: x * 10))
    assert (run(1), run(2)) == (20, 30)
    x = torch.ones(1)
    assert chain(())(x) is x
