"""T2T-ViT as a plugin: published sizes, the authors' checkpoints, other input sizes, and the whole contract kit."""

import argparse
import inspect

import pytest
import torch
from torch.nn import functional

from harness.backbones.t2t import T2TViT
from harness.errors import ParameterError, WeightsError
from harness.types import OutputSpec
from harness.weights import WeightsChoice, parse_weights
from harness_zoo import t2t
from harness_zoo.t2t import SIZES, Sizes, build

RANDOM = WeightsChoice(origin="random")
SMALL = Sizes(width=32, depth=2, heads=2, mlp_ratio=2)
PARAMETERS = {
    ("t2t_7", "performer"): 4_310_222,
    ("t2t_14", "performer"): 21_545_550,
    ("t2t_19", "performer"): 39_177_422,
    ("t2t_24", "performer"): 64_105_934,
    ("t2t_14", "transformer"): 21_541_070,
    ("t2t_19", "transformer"): 39_172_942,
    ("t2t_24", "transformer"): 64_101_454,
}
LOGITS = OutputSpec(logits=True)
URL = "https://example.org/81.5_T2T_ViT_14.pth.tar"


@pytest.fixture
def small(monkeypatch):
    """``t2t_14`` with two narrow blocks, everything else as it is."""
    monkeypatch.setitem(SIZES, "t2t_14", SMALL)


def network(*, side=224, seed=0, tokens="performer"):
    return T2TViT(width=32, depth=2, heads=2, mlp_ratio=2, num_classes=1000, side=side, seed=seed, tokens=tokens).eval()


def as_the_authors_save(net, ema):
    """What their training script leaves beside the weights, of which those of the moving average are the published."""
    return {
        "epoch": 309,
        "arch": "t2t_vit_14",
        "state_dict": {f"module.{name}": value for name, value in net.state_dict().items()},
        "optimizer": {"state": {}, "param_groups": [{"lr": 1e-5}]},
        "args": argparse.Namespace(model="t2t_vit_14", img_size=224),
        "version": 2,
        "state_dict_ema": dict(ema.state_dict()),
        "metric": 81.5,
    }


def images(side=224, n=1):
    return torch.rand(n, 3, side, side, generator=torch.Generator().manual_seed(1))


def entering(pixels):
    mean, std = (torch.tensor(v).view(1, 3, 1, 1) for v in ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)))
    return (pixels - mean) / std


@pytest.mark.parametrize(("arch", "tokens"), PARAMETERS)
def test_parameters_are_as_many_as_published(arch, tokens):
    with torch.device("meta"):
        model = build(arch=arch, tokens=tokens, weights=RANDOM)
    assert sum(parameter.numel() for parameter in model.net.parameters()) == PARAMETERS[arch, tokens]
    assert model.info.num_blocks == int(arch.removeprefix("t2t_"))
    assert model.info.name == (arch if tokens == "performer" else f"{arch}_transformer")


@pytest.mark.parametrize("tokens", ["performer", "transformer"])
@torch.no_grad()
def test_a_checkpoint_as_the_authors_save_it_is_loaded(small, saved, tokens):
    net, ema = network(seed=1, tokens=tokens), network(seed=2, tokens=tokens)
    path = saved(as_the_authors_save(net, ema), "81.5_T2T_ViT_14.pth.tar")
    model = build(weights=parse_weights(str(path)), tokens=tokens)
    found = model.outputs(images(), LOGITS).logits["head"]
    torch.testing.assert_close(found, ema(entering(images())), rtol=1e-5, atol=1e-5)
    assert (found - net(entering(images()))).abs().max() > 1e-4
    assert model.info.weights.origin == "checkpoint"
    assert len(model.info.weights.sha256) == 64
    assert torch.equal(model.net.tokens_to_token.project.weight, ema.tokens_to_token.project.weight)


def test_a_checkpoint_of_the_other_tokens_to_token_module_is_refused(small, saved):
    path = saved(network(tokens="transformer").state_dict())
    with pytest.raises(WeightsError, match=r"missing: tokens_to_token\.attention1\.w"):
        build(weights=parse_weights(str(path)))


def test_pretrained_weights_come_from_the_address(small, saved, from_address):
    ema = network(seed=3)
    asked = from_address(saved({"state_dict_ema": ema.state_dict()}, "81.5.pth.tar"))
    model = build(weights=WeightsChoice(), url=URL, sha256="ab" * 32)
    assert asked == [(URL, "ab" * 32)]
    assert torch.equal(model.net.head.weight, ema.head.weight)
    assert model.info.weights.identity == f"pretrained:{URL}"
    assert len(model.info.weights.sha256) == 64


def test_without_an_address_there_are_no_pretrained_weights():
    with pytest.raises(WeightsError, match="t2t has no pretrained weights"):
        build(weights=WeightsChoice())


def test_random_weights_are_those_of_their_seed(small):
    first, again, other = (build(weights=parse_weights(f"random:{seed}")).net.state_dict() for seed in (1, 1, 2))
    assert all(torch.equal(value, again[name]) for name, value in first.items())
    assert not torch.equal(first["head.weight"], other["head.weight"])


def test_the_view_is_the_authors_evaluation_at_any_size(small):
    assert build(weights=RANDOM).info.view.text == "resize=248,crop=224,interpolation=bicubic"
    assert build(weights=RANDOM, input=384).info.view.text == "resize=426,crop=384,interpolation=bicubic"
    info = build(weights=RANDOM).info
    assert (info.mean, info.std) == ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))


@pytest.mark.parametrize(
    ("how", "options"),
    [("bicubic", {"mode": "bicubic"}), ("bilinear_corner", {"mode": "bilinear", "align_corners": True})],
)
@torch.no_grad()
def test_positions_are_interpolated_for_another_input_size(small, saved, how, options):
    net = network(seed=1)
    path = saved(net.state_dict())
    model = build(weights=parse_weights(str(path)), input=96, posemb_interp=how)
    square = net.pos_embed[:, 1:].reshape(1, 14, 14, 32).permute(0, 3, 1, 2)
    expected = functional.interpolate(square, size=(6, 6), **options).permute(0, 2, 3, 1).reshape(1, 36, 32)
    torch.testing.assert_close(model.net.pos_embed[:, 1:], expected)
    assert torch.equal(model.net.pos_embed[:, :1], net.pos_embed[:, :1])
    tokens = model.outputs(images(96), OutputSpec(tokens=frozenset({1}))).tokens[1]
    assert tokens.grid == (6, 6)
    with pytest.raises(WeightsError, match="pos_embed"):
        build(weights=parse_weights(str(saved(network(side=96).state_dict()))))


def test_an_input_that_the_strides_do_not_divide_is_refused():
    with pytest.raises(ParameterError, match="multiple of 16, not 100"):
        build(weights=RANDOM, input=100)


@torch.no_grad()
def test_positions_can_be_taken_away(small):
    own = build(weights=RANDOM).net.pos_embed
    zero = build(weights=RANDOM, positions="zero").net.pos_embed
    mean = build(weights=RANDOM, positions="mean").net.pos_embed
    first, again, other = (
        build(weights=RANDOM, positions="shuffle", positions_seed=seed).net.pos_embed for seed in (1, 1, 2)
    )
    for changed in (zero, mean, first, other):
        assert torch.equal(changed[:, :1], own[:, :1])
    assert not zero[:, 1:].any()
    torch.testing.assert_close(mean[0, 1:], own[0, 1:].mean(0).expand(196, -1))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    assert {tuple(row.tolist()) for row in first[0, 1:]} == {tuple(row.tolist()) for row in own[0, 1:]}


@pytest.mark.parametrize("tokens", ["performer", "transformer"])
def test_the_contract_kit_finds_nothing(small, findings, tokens):
    (entry,) = t2t.harness_register_models()
    assert inspect.signature(build).parameters["tokens"].default == entry.params().tokens

    def make(*, weights):
        return build(weights=weights, tokens=tokens)

    assert findings(entry, make, "harness_zoo.t2t") == {}
