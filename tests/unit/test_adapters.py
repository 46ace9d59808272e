"""A Python user's own module as a Model: what it gives, that it stays the user's, and what is refused."""

import copy
import dataclasses

import pytest
import torch
import torchvision.transforms.v2.functional as tv
from torch import nn

from harness.adapters import check_want, model_input, module_digest, wrap_module
from harness.errors import CapabilityError, ParameterError
from harness.protocols import Model
from harness.types import Capability, ModelInfo, OutputSpec, View, WeightsInfo

MEAN, STD = (0.4, 0.5, 0.6), (0.2, 0.25, 0.3)
VIEW = View(crop=16)


class Net(nn.Module):
    """Convolution, batch norm, dropout and a head: everything whose training mode would show."""

    def __init__(self, classes=5):
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3)
        self.norm = nn.BatchNorm2d(8)
        self.drop = nn.Dropout(0.5)
        self.fc = nn.Linear(8, classes)

    def forward(self, x):
        return self.fc(self.drop(self.norm(self.stem(x)).relu().mean((2, 3))))


class TimmLike(Net):
    def forward_features(self, x):
        return self.norm(self.stem(x)).relu()

    def forward_head(self, x, pre_logits=False):
        x = self.drop(x.mean((2, 3)))
        return x if pre_logits else self.fc(x)


def wrap(module, **options):
    options = {"name": "mine", "view": VIEW, "mean": MEAN, "std": STD, **options}
    return wrap_module(module, **options)


@pytest.fixture
def images():
    return torch.rand(4, 3, 16, 16, generator=torch.Generator().manual_seed(0))


@pytest.fixture
def net():
    torch.manual_seed(0)
    return Net()


def by_hand(net, images):
    mean, std = (torch.tensor(values).view(1, 3, 1, 1) for values in (MEAN, STD))
    return copy.deepcopy(net).eval()((images - mean) / std)


def test_logits_are_those_of_the_normalised_pixels_in_eval_mode(net, images):
    model = wrap(net, label_space="five")
    assert isinstance(model, Model)
    info = model.info
    assert (info.num_classes, info.heads, info.label_space, info.input_size) == (5, ("head",), "five", 16)
    assert info.capabilities == {Capability.LOGITS, Capability.GRADIENTS}
    assert torch.equal(model.outputs(images, OutputSpec(logits=True)).logits["head"], by_hand(net, images))


def test_the_module_stays_the_users(net, images):
    net.norm.eval()
    net.fc.weight.requires_grad_(False)
    net.train()
    net.norm.eval()
    modes = [part.training for part in net.modules()]
    learning = [parameter.requires_grad for parameter in net.parameters()]
    state = {name: value.clone() for name, value in net.state_dict().items()}
    model = wrap(net)
    with torch.inference_mode():
        model.outputs(images, OutputSpec(logits=True))
    pixels = images.clone().requires_grad_()
    model.outputs(pixels, OutputSpec(logits=True)).logits["head"].sum().backward()
    assert pixels.grad is not None
    assert all(parameter.grad is None for parameter in net.parameters())
    assert [part.training for part in net.modules()] == modes
    assert [parameter.requires_grad for parameter in net.parameters()] == learning
    assert all(torch.equal(value, state[name]) for name, value in net.state_dict().items())


def test_the_module_is_given_back_after_an_error(net):
    model = wrap(net)
    net.train()
    with pytest.raises(RuntimeError):
        model.outputs(torch.rand(1, 4, 16, 16), OutputSpec(logits=True))
    assert net.training
    assert all(parameter.requires_grad for parameter in net.parameters())


@pytest.mark.parametrize("how", ["timm", "name"])
def test_pooled_is_what_enters_the_head_and_comes_from_one_pass(images, how):
    net = TimmLike() if how == "timm" else Net()
    model = wrap(net, pooled_input_of=None if how == "timm" else "fc")
    assert model.info.capabilities == {Capability.LOGITS, Capability.POOLED, Capability.GRADIENTS}
    assert model.info.pooled_dim == 8
    passes = []
    net.stem.register_forward_hook(lambda *_: passes.append(1))
    outputs = model.outputs(images, OutputSpec(logits=True, pooled=True))
    assert len(passes) == 1
    torch.testing.assert_close(outputs.pooled @ net.fc.weight.T + net.fc.bias, outputs.logits["head"])
    assert torch.equal(outputs.logits["head"], by_hand(net, images))
    only = model.outputs(images, OutputSpec(pooled=True))
    assert only.logits == {}
    assert torch.equal(only.pooled, outputs.pooled)
    assert model.outputs(images, OutputSpec(logits=True)).pooled is None


def test_a_backbone_without_head_gives_pooled_and_no_logits(images):
    net = Net()
    net.fc = nn.Identity()
    model = wrap(net, gives="pooled", label_space="ignored")
    assert model.info.capabilities == {Capability.POOLED, Capability.GRADIENTS}
    assert (model.info.num_classes, model.info.label_space, model.info.pooled_dim) == (None, None, 8)
    assert torch.equal(model.outputs(images, OutputSpec(pooled=True)).pooled, by_hand(net, images))
    with pytest.raises(CapabilityError, match="gives no logits"):
        model.outputs(images, OutputSpec(logits=True))


def test_gradients_are_claimed_only_where_there_are_any():
    class Hard(Net):
        def forward(self, x):
            return super().forward((x > 0).float())

    assert Capability.GRADIENTS not in wrap(Hard()).info.capabilities


def test_what_is_no_classifier_is_refused():
    class Two(Net):
        def forward(self, x):
            return super().forward(x), x

    with pytest.raises(ParameterError, match="tuple"):
        wrap(Two())
    with pytest.raises(ParameterError, match=r"\(1, 8, 14, 14\)"):
        wrap(nn.Conv2d(3, 8, 3))
    with pytest.raises(ParameterError, match="no submodule 'head'") as caught:
        wrap(Net(), pooled_input_of="head")
    assert "fc" in str(caught.value.hint)
    with pytest.raises(ParameterError, match="pre-logits"):
        wrap(Net(), pooled_input_of="norm")


def test_a_timm_like_module_whose_parts_disagree_is_refused():
    class Twisted(TimmLike):
        def forward(self, x):
            return super().forward(x) + 1

    with pytest.raises(ParameterError, match="differ"):
        wrap(Twisted())
    assert Capability.POOLED in wrap(Twisted(), pooled_input_of="fc").info.capabilities


# --- identity --------------------------------------------------------------------------------------------------


def test_identity_is_that_of_the_values(net):
    model = wrap(net)
    assert model.info.weights.identity == wrap(copy.deepcopy(net)).info.weights.identity
    assert model.info.weights.identity != wrap(net, gives="pooled").info.weights.identity
    assert model.info.weights.origin == "checkpoint"
    assert module_digest(copy.deepcopy(net)) == module_digest(net)
    for change in (
        lambda other: other.fc.bias.data.add_(1e-6),
        lambda other: other.norm.running_mean.add_(1),
        lambda other: other.half(),
        lambda other: setattr(other, "fc", nn.Linear(8, 5)),
        lambda other: setattr(other.norm, "eps", 0.1),
    ):
        other = copy.deepcopy(net)
        change(other)
        assert module_digest(other) != module_digest(net)


def test_identity_tells_classes_with_equal_weights_apart(net):
    other = TimmLike()
    other.load_state_dict(net.state_dict())
    assert module_digest(other) != module_digest(net)


def test_identity_takes_half_precision_and_scalars():
    class Odd(nn.Module):
        def __init__(self):
            super().__init__()
            self.register_buffer("scalar", torch.tensor(3))
            self.register_buffer("brain", torch.ones(3, dtype=torch.bfloat16))
            self.register_buffer("empty", torch.zeros(0))

    assert module_digest(Odd()) == module_digest(Odd())


# --- the input and the wants -----------------------------------------------------------------------------------


def info(**changes):
    facts = {
        "name": "m",
        "family": "f",
        "weights": WeightsInfo(origin="random", identity="random:m:0"),
        "view": VIEW,
        "mean": MEAN,
        "std": STD,
        "label_space": None,
        "num_classes": None,
        "num_blocks": 3,
        "embed_dim": 8,
        "capabilities": frozenset({Capability.TOKENS}),
    }
    return ModelInfo(**{**facts, **changes})


def test_input_of_the_right_size_is_normalised_channel_by_channel(images):
    given = model_input(images, info())
    expected = tv.normalize(images, list(MEAN), list(STD))
    torch.testing.assert_close(given, expected)


def test_input_of_another_size_is_resized_before_normalisation():
    images = torch.rand(2, 3, 40, 24)
    resized = tv.resize(images, [16, 16], interpolation=tv.InterpolationMode.BICUBIC, antialias=True).clamp(0, 1)
    torch.testing.assert_close(model_input(images, info()), tv.normalize(resized, list(MEAN), list(STD)))


def test_resized_pixels_stay_in_range_and_carry_gradients():
    images = (torch.arange(3 * 64 * 64).reshape(1, 3, 64, 64) // 8 % 2).float().requires_grad_()
    flat = model_input(images, info(mean=(0.0,) * 3, std=(1.0,) * 3))
    assert flat.min() >= 0
    assert flat.max() <= 1
    assert torch.autograd.grad(flat.sum(), images)[0].abs().sum() > 0


def test_wants_beyond_the_claims_are_refused():
    card = info()
    check_want(card, OutputSpec(tokens=frozenset({0, 2}), normed_tokens=frozenset({1})))
    for want in (OutputSpec(logits=True), OutputSpec(pooled=True), OutputSpec(attention=frozenset({0}))):
        with pytest.raises(CapabilityError, match="it gives tokens"):
            check_want(card, want)
    for block in (3, -1):
        with pytest.raises(CapabilityError, match=f"block {block} "):
            check_want(card, OutputSpec(normed_tokens=frozenset({block})))


def test_attention_is_refused_of_blocks_that_have_none():
    card = info(capabilities=frozenset({Capability.TOKENS, Capability.ATTENTION}), attention_blocks=(2,))
    check_want(card, OutputSpec(tokens=frozenset({0}), attention=frozenset({2})))
    check_want(dataclasses.replace(card, attention_blocks=None), OutputSpec(attention=frozenset({0, 1, 2})))
    with pytest.raises(CapabilityError, match="block 0 of model m has no attention") as caught:
        check_want(card, OutputSpec(attention=frozenset({0, 2})))
    assert caught.value.hint == "its blocks with attention are 2"


def test_a_view_may_be_given_as_its_text(net):
    assert wrap(net, view="resize=18,crop=16").info.view == View(resize=18, crop=16)
    with pytest.raises(ParameterError, match="view: cannot read"):
        wrap(net, view="large")
