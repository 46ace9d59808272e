"""ResNet with attention pooling against torchvision's ResNet, published sizes and slow loops, and the model kit."""

import math
from dataclasses import replace

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode
from torchvision.models import resnet50
from torchvision.models.resnet import Bottleneck, ResNet

from harness.backbones.attention_pool import AttentionPoolModel, AttentionPoolResNet
from harness.entries import ModelEntry
from harness.errors import CapabilityError, ParameterError, WeightsError
from harness.protocols import Model, SupportsIntervention
from harness.state_dicts import load_strict
from harness.testing import intervention_checks, model_checks
from harness.testing.kit import NotApplicableError, Subject
from harness.types import Capability, ModelInfo, OutputSpec, View, WeightsInfo

BLOCKS, CLASSES, SIDE, WIDTH = (1, 1, 1, 1), 5, 64, 2048
GRIDS = [(16, 16), (8, 8), (4, 4), (2, 2), (2, 2)]
WIDTHS = [256, 512, 1024, 2048, 2048]
LOGITS = OutputSpec(logits=True)
EVERYTHING = OutputSpec(
    logits=True,
    pooled=True,
    tokens=frozenset(range(5)),
    normed_tokens=frozenset(range(5)),
    attention=frozenset({4}),
)
IDS = ("a", "b")
MEAN, STD = (0.5, 0.4, 0.3), (0.2, 0.3, 0.25)
NEW = ("cls_token", "aggregation.*", "norm.*")


def miniature(**changes):
    """A network of one bottleneck a stage, in eval mode."""
    return AttentionPoolResNet(**{"blocks": BLOCKS, "num_classes": CLASSES, **changes}).eval()


def shaken(net):
    """The same network with every parameter and running statistic moved off its initial value, so that each shows."""
    generator = torch.Generator().manual_seed(7)
    with torch.no_grad():
        for name, value in net.state_dict().items():
            if name.endswith("running_var"):
                value.add_(0.3 * torch.rand(value.shape, generator=generator))
            elif value.is_floating_point() and value.ndim < 4:
                value.add_((0.3 if value.ndim == 1 else 0.02) * torch.randn(value.shape, generator=generator))
    return net


def wrapped(net):
    card = ModelInfo(
        name="mini",
        family="resnet50_attnpool",
        weights=WeightsInfo(origin="random", identity="random:mini:0"),
        view=View(crop=SIDE),
        mean=MEAN,
        std=STD,
        label_space="five",
        num_classes=None,
        num_blocks=0,
        embed_dim=0,
    )
    return AttentionPoolModel(net, card)


def entering(images):
    mean, std = (torch.tensor(values).view(1, 3, 1, 1) for values in (MEAN, STD))
    return (images - mean) / std


def close(a, b, tolerance=1e-4):
    torch.testing.assert_close(a, b, rtol=tolerance, atol=tolerance, check_dtype=False)


@pytest.fixture(scope="module")
def net():
    return shaken(miniature())


@pytest.fixture(scope="module")
def model(net):
    return wrapped(net)


@pytest.fixture(scope="module")
def images():
    return torch.rand(2, 3, SIDE, SIDE, generator=torch.Generator().manual_seed(1))


@pytest.fixture(scope="module")
def plain(net):
    """torchvision's own ResNet of the same stages, with the same stem, stages and linear layer."""
    bare = ResNet(Bottleneck, list(BLOCKS), num_classes=CLASSES).eval()
    bare.load_state_dict({name: value for name, value in net.state_dict().items() if name in bare.state_dict()})
    return bare


# --- sizes and names -------------------------------------------------------------------------------------------


def counted(net):
    with torch.device("meta"), FlopCounterMode(display=False) as counter:
        logits = net(torch.empty(1, 3, 224, 224))
    assert logits.shape == (1, 1000)
    return sum(parameter.numel() for parameter in net.parameters()), counter.get_total_flops() / 2 / 1e9


def test_parameters_and_multiplications_are_as_many_more_as_published():
    with torch.device("meta"):
        pooled, averaged = AttentionPoolResNet(num_classes=1000).eval(), resnet50().eval()
    assert all(parameter.is_meta for parameter in pooled.parameters())
    (parameters, giga), (plain_parameters, plain_giga) = counted(pooled), counted(averaged)
    d = 2048
    attention, mlp = 4 * (d * d + d), (3 * d * d + 3 * d) + (3 * d * d + d)
    # Two layer norms and two scales in the aggregation, the class token, and the norm in front of the classifier.
    assert parameters - plain_parameters == attention + mlp + 2 * 2 * d + 2 * d + d + 2 * d == 41_977_856
    assert (plain_parameters, parameters) == (25_557_032, 67_534_888)
    assert giga - plain_giga == pytest.approx(0.45, abs=0.005)
    assert plain_giga == pytest.approx(4.1, abs=0.02)
    assert giga == pytest.approx(4.6, abs=0.06)


def test_names_are_those_of_a_resnet_and_a_plain_checkpoint_fits():
    net, bare = miniature(), ResNet(Bottleneck, list(BLOCKS), num_classes=CLASSES)
    own, plain = net.state_dict(), bare.state_dict()
    assert {name: value.shape for name, value in own.items() if name in plain} == {k: v.shape for k, v in plain.items()}
    more = set(own) - set(plain)
    assert {name.split(".")[0] for name in more} == {"cls_token", "aggregation", "norm"}
    before = own["cls_token"].clone()
    loaded = load_strict(net, plain, source="plain", allow_missing=NEW)
    assert set(loaded.kept) == more
    after = net.state_dict()
    assert all(torch.equal(after[name], value) for name, value in plain.items())
    assert torch.equal(after["cls_token"], before)
    with pytest.raises(WeightsError, match="missing: cls_token"):
        load_strict(net, plain, source="plain")


def test_sizes_that_make_no_network_are_refused():
    for changes in ({"blocks": (3, 4, 6)}, {"blocks": (1, 0, 1, 1)}, {"num_classes": 0}):
        with pytest.raises(ParameterError, match="make no network"):
            miniature(**changes)


def test_initial_parameters_are_those_of_their_seed_and_the_global_state_stays():
    torch.manual_seed(3)
    state = torch.get_rng_state()
    first, again, other = (miniature(seed=seed, layer_scale=0.25).state_dict() for seed in (1, 1, 2))
    assert torch.equal(torch.get_rng_state(), state)
    assert all(torch.equal(value, again[name]) for name, value in first.items())
    for name, value in first.items():
        if "gamma" in name:
            assert (value == 0.25).all()
        elif value.ndim == 1 or "num_batches" in name:
            expected = float(name.endswith(("weight", "running_var")))
            assert (value == expected).all()
        else:
            fan_out = value.shape[0] * value[0, 0].numel()
            spread = (2 / fan_out) ** 0.5 if value.ndim == 4 else 0.02
            assert value.std().item() == pytest.approx(spread, rel=0.05)
            assert not torch.equal(value, other[name])


# --- the same numbers, computed otherwise ----------------------------------------------------------------------


def layer_norm(x, state, name):
    centred = x - x.mean(-1, keepdim=True)
    scaled = centred / (centred.square().mean(-1, keepdim=True) + 1e-6).sqrt()
    return scaled * state[f"{name}.weight"] + state[f"{name}.bias"]


def gelu(x):
    return x * (1 + torch.erf(x / math.sqrt(2))) / 2


def linear(x, state, name):
    return x @ state[f"{name}.weight"].T + state[f"{name}.bias"]


def slow_aggregation(state, patches):
    """The class token (D,) of one image that leaves the aggregation, and its weights (keys,), one key at a time."""
    token = state["cls_token"][0, 0]
    normed = [layer_norm(key, state, "aggregation.norm1") for key in (token, *patches)]
    query = linear(normed[0], state, "aggregation.attn.q")
    scores = torch.stack([query @ linear(key, state, "aggregation.attn.k") for key in normed]) / math.sqrt(WIDTH)
    shares = (scores - scores.max()).exp()
    row = shares / shares.sum()
    gathered = sum(w * linear(key, state, "aggregation.attn.v") for w, key in zip(row, normed, strict=True))
    token = token + state["aggregation.gamma_1"] * linear(gathered, state, "aggregation.attn.proj")
    hidden = gelu(linear(layer_norm(token, state, "aggregation.norm2"), state, "aggregation.mlp.fc1"))
    return token + state["aggregation.gamma_2"] * linear(hidden, state, "aggregation.mlp.fc2"), row


@torch.no_grad()
def test_stages_are_torchvisions_and_the_aggregation_is_its_formula(model, net, plain, images):
    outputs = model.outputs(images, EVERYTHING)
    x = plain.maxpool(plain.relu(plain.bn1(plain.conv1(entering(images)))))
    for i, stage in enumerate((plain.layer1, plain.layer2, plain.layer3, plain.layer4)):
        x = stage(x)
        close(outputs.tokens[i].patches, x.flatten(2).transpose(1, 2))
        assert torch.equal(outputs.normed_tokens[i].patches, outputs.tokens[i].patches)
    state = {name: value.double() for name, value in net.state_dict().items()}
    patches = x.flatten(2).transpose(1, 2).double()
    assert torch.equal(outputs.tokens[4].patches, outputs.tokens[3].patches)
    close(outputs.normed_tokens[4].patches, layer_norm(patches, state, "norm"))
    for n in range(2):
        token, row = slow_aggregation(state, patches[n])
        close(outputs.tokens[4].prefix[n, 0], token)
        close(outputs.attention[4].weights[n, 0, 0], row)
        normed = layer_norm(token, state, "norm")
        close(outputs.normed_tokens[4].prefix[n, 0], normed)
        close(outputs.pooled[n], normed)
        close(outputs.logits["head"][n], linear(normed, state, "fc"))
    assert outputs.attention[4].kind == "class"
    assert outputs.attention[4].weights.std(dim=-1).min() > 1e-3
    close(net(entering(images)), outputs.logits["head"])


# --- what it gives ---------------------------------------------------------------------------------------------


def test_the_card_says_what_there_is(model):
    assert isinstance(model, Model)
    assert isinstance(model, SupportsIntervention)
    info = model.info
    assert (info.num_blocks, info.embed_dim, info.pooled_dim, info.num_classes) == (5, WIDTH, WIDTH, CLASSES)
    assert (info.heads, info.prefix, info.label_space, info.attention_blocks) == (("head",), ("cls",), "five", (4,))
    assert info.capabilities == frozenset(Capability) - {Capability.CLASS_TOKEN}


@torch.no_grad()
def test_widths_and_grids_differ_by_stage_and_the_class_token_is_in_the_last_block_only(model, images):
    tokens = model.outputs(images, EVERYTHING).tokens
    assert [tokens[i].grid for i in range(5)] == GRIDS
    assert [tokens[i].patches.shape[2] for i in range(5)] == WIDTHS
    assert [tokens[i].prefix.shape[1] for i in range(5)] == [0, 0, 0, 0, 1]


@torch.no_grad()
def test_attention_of_a_stage_is_refused(model, images):
    with pytest.raises(CapabilityError, match="block 3 of model mini has no attention"):
        model.outputs(images, OutputSpec(attention=frozenset({3})))


@torch.no_grad()
def test_no_stage_too_many_is_run(model, net, images):
    calls = []
    parts = (net.layer1, net.layer2, net.layer3, net.layer4, net.aggregation)
    hooks = [part.register_forward_hook(lambda *_, i=i: calls.append(i)) for i, part in enumerate(parts)]
    model.outputs(images, OutputSpec(tokens=frozenset({0}), normed_tokens=frozenset({1})))
    assert calls == [0, 1]
    calls.clear()
    model.outputs(images, EVERYTHING)
    assert calls == [0, 1, 2, 3, 4]
    for hook in hooks:
        hook.remove()


# --- interventions ---------------------------------------------------------------------------------------------


@torch.no_grad()
def test_sites_see_what_enters_them(model, net, images):
    clean, seen = model.outputs(images, EVERYTHING), {}
    sites = [*(f"block:{i}" for i in range(5)), "pool"]
    for site in sites:
        with model.intervene(site, lambda given, site=site: seen.setdefault(site, given), ids=IDS):
            close(model.outputs(images, LOGITS).logits["head"], clean.logits["head"])
    assert [seen[site].grid for site in sites] == [(16, 16), *GRIDS[:4], (2, 2)]
    for i in range(1, 5):
        close(seen[f"block:{i}"].patches, clean.tokens[i - 1].patches)
    close(seen["pool"].patches, clean.tokens[3].patches)
    assert [seen[site].prefix.shape[1] for site in sites] == [0, 0, 0, 0, 1, 0]
    assert torch.equal(seen["block:4"].prefix, net.cls_token.expand(2, -1, -1))


def first_row_to_zero(tokens):
    patches = tokens.patches.clone()
    patches[:, : tokens.grid[1]] = 0
    return replace(tokens, patches=patches)


@pytest.mark.parametrize(("site", "before"), [("block:0", 0), ("block:2", 2), ("block:4", 4), ("pool", 4)])
@torch.no_grad()
def test_what_enters_a_site_can_be_replaced(model, net, images, site, before):
    x = net.maxpool(net.relu(net.bn1(net.conv1(entering(images)))))
    for i, stage in enumerate((net.layer1, net.layer2, net.layer3, net.layer4, None)):
        if i == before:
            x = torch.cat([torch.zeros_like(x[:, :, :1]), x[:, :, 1:]], dim=2)
        x = x if stage is None else stage(x)
    token, _ = net.aggregation(net.cls_token.expand(2, -1, -1), x.flatten(2).transpose(1, 2))
    clean = model.outputs(images, LOGITS).logits["head"]
    with model.intervene(site, first_row_to_zero, ids=IDS):
        changed = model.outputs(images, LOGITS).logits["head"]
    close(changed, net.fc(net.norm(token[:, 0])))
    assert (changed - clean).abs().max() > 1e-4
    close(model.outputs(images, LOGITS).logits["head"], clean)


@torch.no_grad()
def test_no_place_can_be_dropped_and_unknown_sites_are_refused(model, images):
    kept = torch.arange(2).expand(2, -1)
    drop = lambda tokens: replace(tokens, patches=tokens.patches[:, :2], kept=kept)  # noqa: E731
    for site in ("block:1", "block:4", "pool"):
        with pytest.raises(CapabilityError, match="every patch"), model.intervene(site, drop, ids=IDS):
            model.outputs(images, LOGITS)
    for site in ("pos_embed", "stage:0", "block:5"):
        with pytest.raises(CapabilityError, match="has no site"), model.intervene(site, drop, ids=IDS):
            pass


# --- manners ---------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def subject():
    entry = ModelEntry(
        name="mini",
        target="nowhere:nothing",
        summary="a miniature",
        view=View(crop=SIDE),
        label_space="five",
        capabilities=frozenset(),
    )
    return Subject(entry=entry, make=lambda: wrapped(miniature(layer_scale=0.1)))


@pytest.mark.parametrize("check", [*model_checks.CHECKS, *intervention_checks.CHECKS], ids=lambda f: f.__name__)
def test_the_kit_finds_nothing(check, subject):
    try:
        check(subject)
    except NotApplicableError as reason:
        pytest.fail(f"the kit left it out: {reason}")
