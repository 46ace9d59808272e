"""Wrapped ResNets against bare timm."""

from dataclasses import replace

import pytest
import torch

from harness.errors import CapabilityError
from harness.protocols import Model, SupportsIntervention
from harness.types import Capability, OutputSpec

LOGITS = OutputSpec(logits=True)
IDS = ("a", "b", "c")


@pytest.fixture(autouse=True)
def _no_gradients():
    with torch.no_grad():
        yield


@pytest.fixture
def model(built):
    return built("resnet")


@pytest.fixture
def net(bare):
    return bare("resnet")


@pytest.fixture
def images(pixels):
    return pixels("resnet")


@pytest.fixture
def entering(normalised, images):
    return normalised("resnet", images)


def close(a, b):
    torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-5)


def stages(net, x):
    """The maps that leave the four stages, by timm's own account."""
    return net.forward_intermediates(x, indices=[1, 2, 3, 4], intermediates_only=True)


def test_logits_and_pooled_are_timms(model, net, images, entering):
    assert isinstance(model, Model)
    assert isinstance(model, SupportsIntervention)
    outputs = model.outputs(images, OutputSpec(logits=True, pooled=True))
    close(outputs.logits["head"], net(entering))
    close(outputs.pooled, net.forward_head(net.forward_features(entering), pre_logits=True))
    assert model.info.capabilities == frozenset(Capability) - {Capability.ATTENTION, Capability.CLASS_TOKEN}
    assert (model.info.pooled_dim, model.info.embed_dim, model.info.prefix) == (96, 96, ())


def test_tokens_are_the_maps_of_the_stages_in_row_major_order(model, net, images, entering):
    everything = frozenset(range(4))
    outputs = model.outputs(images, OutputSpec(tokens=everything, normed_tokens=frozenset({3})))
    for i, expected in enumerate(stages(net, entering)):
        found = outputs.tokens[i]
        assert found.grid == tuple(expected.shape[2:])
        assert found.prefix.shape == (3, 0, expected.shape[1])
        row, column = found.grid[0] - 1, 1
        close(found.patches[:, row * found.grid[1] + column], expected[:, :, row, column])
        close(found.patches.transpose(1, 2).reshape(expected.shape), expected)
    assert torch.equal(outputs.normed_tokens[3].patches, outputs.tokens[3].patches)
    assert set(outputs.normed_tokens) == {3}


def test_no_stage_too_many(model, images):
    calls = []
    parts = [getattr(model.net, f"layer{i}") for i in (1, 2, 3, 4)]
    hooks = [part.register_forward_hook(lambda *_, i=i: calls.append(i)) for i, part in enumerate(parts)]
    model.outputs(images, OutputSpec(tokens=frozenset({1})))
    model.outputs(images, OutputSpec(logits=True, tokens=frozenset({1})))
    for hook in hooks:
        hook.remove()
    assert calls == [0, 1, 0, 1, 2, 3]


def test_batches_can_be_split(model, images):
    parts = torch.cat([model.outputs(part, LOGITS).logits["head"] for part in (images[:1], images[1:])])
    close(parts, model.outputs(images, LOGITS).logits["head"])


def test_gradients_are_timms(model, net, images, normalised):
    with torch.enable_grad():
        ours, theirs = images.clone().requires_grad_(), images.clone().requires_grad_()
        model.outputs(ours, LOGITS).logits["head"][:, 0].sum().backward()
        net(normalised("resnet", theirs))[:, 0].sum().backward()
    close(ours.grad, theirs.grad)
    assert all(parameter.grad is None for parameter in model.net.parameters())


def test_changing_nothing_changes_nothing(model, images):
    clean = model.outputs(images, LOGITS).logits["head"]
    grids = []
    for site in ("stage:0", "stage:1", "stage:2", "stage:3", "pool"):
        with model.intervene(site, lambda tokens: grids.append(tokens.grid) or tokens, ids=IDS):
            close(model.outputs(images, LOGITS).logits["head"], clean)
    assert grids == [(40, 40), (40, 40), (20, 20), (10, 10), (5, 5)]


def test_what_enters_a_stage_can_be_replaced(model, net, images, entering):
    def left_half_to_zero(tokens):
        columns = torch.arange(tokens.patches.shape[1]) % tokens.grid[1]
        return replace(tokens, patches=tokens.patches * (columns >= tokens.grid[1] // 2).view(1, -1, 1))

    x = stages(net, entering)[1].clone()
    x[..., : x.shape[3] // 2] = 0
    with model.intervene("stage:2", left_half_to_zero, ids=IDS):
        close(model.outputs(images, LOGITS).logits["head"], net.forward_head(net.layer4(net.layer3(x))))
    x = stages(net, entering)[3].clone()
    x[..., : x.shape[3] // 2] = 0
    with model.intervene("pool", left_half_to_zero, ids=IDS):
        close(model.outputs(images, LOGITS).logits["head"], net.forward_head(x))


def test_patches_cannot_be_dropped_and_attention_is_not_there(model, images):
    kept = torch.arange(7).expand(3, -1)

    def drop(tokens):
        return replace(tokens, patches=tokens.patches[:, :7], kept=kept)

    with pytest.raises(CapabilityError, match="every patch"), model.intervene("stage:1", drop, ids=IDS):
        model.outputs(images, LOGITS)
    with pytest.raises(CapabilityError, match="gives no attention"):
        model.outputs(images, OutputSpec(attention=frozenset({0})))
    with pytest.raises(CapabilityError, match="stage:0"), model.intervene("block:0", drop, ids=IDS):
        pass
