"""PatchConvNet against published sizes, plain formulas and slow loops, and the model kit on miniatures."""

import math
from dataclasses import replace

import pytest
import torch
from torch.nn import functional
from torch.utils.flop_counter import FlopCounterMode

from harness.backbones.patchconvnet import PatchConvNet, PatchConvNetModel
from harness.entries import ModelEntry
from harness.errors import CapabilityError, ParameterError
from harness.protocols import Model, SupportsIntervention
from harness.testing import intervention_checks, model_checks
from harness.testing.kit import NotApplicableError, Subject
from harness.types import Capability, ModelInfo, OutputSpec, View, WeightsInfo

WIDTH, DEPTH, CLASSES, SIDE = 16, 3, 5, 56
CELLS = 14 * 14
LOGITS = OutputSpec(logits=True)
EVERYTHING = OutputSpec(
    logits=True,
    tokens=frozenset(range(DEPTH + 1)),
    normed_tokens=frozenset(range(DEPTH + 1)),
    attention=frozenset({DEPTH}),
)
IDS = ("a", "b")
VARIANTS = {
    "S60": (384, 60, 25_231_096),
    "S120": (384, 120, 47_723_896),
    "B60": (768, 60, 99_388_936),
    "B120": (768, 120, 188_611_336),
    "L60": (1024, 60, 176_009_576),
    "L120": (1024, 120, 334_294_376),
    "S60_multi": (384, 60, 25_614_712),
}


def miniature(*, per_class=False, seed=0, **changes):
    """A small network in eval mode on a 14 x 14 map of 56 px images."""
    sizes = {"width": WIDTH, "depth": DEPTH, "num_classes": CLASSES, "layer_scale": 1e-4, "stem_widths": (8, WIDTH)}
    return PatchConvNet(**{**sizes, **changes}, per_class=per_class, seed=seed).eval()


def shaken(net):
    """The same network with every parameter moved well off its initial value, so that every branch shows."""
    generator = torch.Generator().manual_seed(7)
    with torch.no_grad():
        for parameter in net.parameters():
            parameter.add_(0.3 * torch.randn(parameter.shape, generator=generator))
    return net


def wrapped(net):
    card = ModelInfo(
        name="mini",
        family="patchconvnet",
        weights=WeightsInfo(origin="random", identity="random:mini:0"),
        view=View(crop=SIDE),
        mean=(0.5, 0.4, 0.3),
        std=(0.2, 0.3, 0.25),
        label_space="five",
        num_classes=None,
        num_blocks=0,
        embed_dim=0,
    )
    return PatchConvNetModel(net, card)


def entering(images):
    mean, std = (torch.tensor(values).view(1, 3, 1, 1) for values in ((0.5, 0.4, 0.3), (0.2, 0.3, 0.25)))
    return (images - mean) / std


def close(a, b, tolerance=1e-5):
    torch.testing.assert_close(a, b, rtol=tolerance, atol=tolerance)


@pytest.fixture(params=[False, True], ids=["one", "per_class"])
def per_class(request):
    return request.param


@pytest.fixture
def net(per_class):
    return shaken(miniature(per_class=per_class))


@pytest.fixture
def model(net):
    return wrapped(net)


@pytest.fixture
def images():
    return torch.rand(2, 3, SIDE, SIDE, generator=torch.Generator().manual_seed(1))


def on_meta(name):
    width, depth, _ = VARIANTS[name]
    with torch.device("meta"):
        return PatchConvNet(
            width=width, depth=depth, num_classes=1000, layer_scale=1e-6, per_class=name == "S60_multi"
        ).eval()


# --- sizes -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", VARIANTS)
def test_parameters_are_as_many_as_published(name):
    net = on_meta(name)
    assert all(parameter.is_meta for parameter in net.parameters())
    assert sum(parameter.numel() for parameter in net.parameters()) == VARIANTS[name][2]


@pytest.mark.parametrize(
    ("name", "giga"), [("S60", 3.98), ("S120", 7.49), ("B60", 15.80), ("B120", 29.77), ("S60_multi", 5.3)]
)
def test_multiplications_at_224_are_as_many_as_published(name, giga):
    with torch.device("meta"), FlopCounterMode(display=False) as counter:
        logits = on_meta(name)(torch.empty(1, 3, 224, 224))
    assert logits.shape == (1, 1000)
    assert counter.get_total_flops() / 2 / 1e9 == pytest.approx(giga, rel=0.01)


def test_the_parameters_have_the_names_and_shapes_of_the_authors_checkpoints():
    d, k = 32, 10
    linear = lambda name, leaving, arriving: {f"{name}.weight": (leaving, arriving), f"{name}.bias": (leaving,)}  # noqa: E731
    point = lambda name, leaving, arriving: {f"{name}.weight": (leaving, arriving, 1, 1), f"{name}.bias": (leaving,)}  # noqa: E731
    norm = lambda name: {f"{name}.weight": (d,), f"{name}.bias": (d,)}  # noqa: E731
    mixing = "blocks.0.attn.qkv_pos"
    token = "blocks_token_only.0"
    expected = {
        "cls_token": (1, 1, d),
        "patch_embed.proj.0.0.weight": (d // 8, 3, 3, 3),
        "patch_embed.proj.2.0.weight": (d // 4, d // 8, 3, 3),
        "patch_embed.proj.4.0.weight": (d // 2, d // 4, 3, 3),
        "patch_embed.proj.6.0.weight": (d, d // 2, 3, 3),
        "blocks.0.gamma_1": (d,),
        **norm("blocks.0.norm1"),
        **point(f"{mixing}.0", d, d),
        f"{mixing}.2.weight": (d, 1, 3, 3),
        f"{mixing}.2.bias": (d,),
        **point(f"{mixing}.4.conv_reduce", d // 4, d),
        **point(f"{mixing}.4.conv_expand", d, d // 4),
        **point(f"{mixing}.5", d, d),
        f"{token}.gamma_1": (d,),
        f"{token}.gamma_2": (d,),
        **norm(f"{token}.norm1"),
        **norm(f"{token}.norm2"),
        **{key: shape for name in "qkv" for key, shape in linear(f"{token}.attn.{name}", d, d).items()},
        **linear(f"{token}.attn.proj", d, d),
        **linear(f"{token}.mlp.fc1", 3 * d, d),
        **linear(f"{token}.mlp.fc2", d, 3 * d),
        **norm("norm"),
        **linear("head", k, d),
    }
    sizes = {"width": d, "depth": 1, "num_classes": k, "layer_scale": 1.0}
    assert {name: tuple(value.shape) for name, value in PatchConvNet(**sizes).state_dict().items()} == expected
    del expected["head.weight"], expected["head.bias"]
    expected |= {"cls_token": (1, k, d)}
    expected |= {key: shape for i in range(k) for key, shape in linear(f"head.{i}", 1, d).items()}
    many = PatchConvNet(**sizes, per_class=True)
    assert {name: tuple(value.shape) for name, value in many.state_dict().items()} == expected


def test_sizes_that_make_no_network_are_refused():
    for changes in ({"stem_widths": (8, 12)}, {"stem_widths": ()}):
        with pytest.raises(ParameterError, match="end with the width 16"):
            miniature(**changes)
    with pytest.raises(ParameterError, match="no eighth"):
        miniature(width=12, stem_widths=None)
    with pytest.raises(ParameterError, match="must be positive"):
        miniature(depth=0)


# --- initial parameters ----------------------------------------------------------------------------------------


def test_initial_parameters_are_those_of_their_seed_and_the_global_state_stays():
    torch.manual_seed(3)
    state = torch.get_rng_state()
    first, again, other = (miniature(seed=seed).state_dict() for seed in (1, 1, 2))
    assert torch.equal(torch.get_rng_state(), state)
    assert all(torch.equal(value, again[name]) for name, value in first.items())
    assert not torch.equal(first["cls_token"], other["cls_token"])
    assert not torch.equal(first["blocks.2.attn.qkv_pos.0.weight"], other["blocks.2.attn.qkv_pos.0.weight"])


def test_initial_parameters_are_spread_as_the_paper_says(per_class):
    net = miniature(width=256, stem_widths=(64, 256), num_classes=50, per_class=per_class, layer_scale=0.25)
    for name, value in net.state_dict().items():
        if "gamma" in name:
            assert (value == 0.25).all()
        elif "norm" in name or (name.endswith("bias") and ("token" in name or "head" in name)):
            assert (value == (1 if name.endswith("weight") else 0)).all()
        elif "token" in name or "head" in name:
            spread = 0.02 if value.numel() > 5000 else value.std().item()
            assert value.std().item() == pytest.approx(spread, rel=0.05)
            assert 0 < value.abs().max() < 0.12
        elif name.endswith("weight"):
            bound = value[0].numel() ** -0.5
            assert 0.8 * bound < value.abs().max() <= bound
            assert value.std().item() == pytest.approx(bound / math.sqrt(3), rel=0.1)
        else:
            assert 0 < value.abs().max() <= (1 / 3 if ".2.bias" in name else 1 / 8)


# --- the same numbers, computed otherwise ----------------------------------------------------------------------


def layer_norm(x, state, name):
    """Over the last dimension."""
    centred = x - x.mean(-1, keepdim=True)
    scaled = centred / (centred.square().mean(-1, keepdim=True) + 1e-6).sqrt()
    return scaled * state[f"{name}.weight"] + state[f"{name}.bias"]


def gelu(x):
    return x * (1 + torch.erf(x / math.sqrt(2))) / 2


def linear(x, state, name):
    """Over the last dimension; a 1 x 1 convolution counts as a linear layer."""
    return x @ state[f"{name}.weight"].flatten(1).T + state[f"{name}.bias"]


def trunk_maps(net, pixels):
    """The map (N, H, W, D) that leaves each trunk block, from the parameters by name."""
    state = net.state_dict()
    x = functional.conv2d(pixels, state["patch_embed.proj.0.0.weight"], stride=2, padding=1)
    x = functional.conv2d(gelu(x), state["patch_embed.proj.2.0.weight"], stride=2, padding=1).permute(0, 2, 3, 1)
    maps = []
    for i in range(DEPTH):
        name = f"blocks.{i}.attn.qkv_pos"
        y = gelu(linear(layer_norm(x, state, f"blocks.{i}.norm1"), state, f"{name}.0"))
        padded = functional.pad(y, (0, 0, 1, 1, 1, 1))
        height, width = y.shape[1:3]
        kernel = state[f"{name}.2.weight"]
        shifted = [
            padded[:, row : row + height, column : column + width] * kernel[:, 0, row, column]
            for row in range(3)
            for column in range(3)
        ]
        y = gelu(sum(shifted) + state[f"{name}.2.bias"])
        squeezed = linear(y.mean((1, 2)), state, f"{name}.4.conv_reduce").clamp(min=0)
        gate = 1 / (1 + (-linear(squeezed, state, f"{name}.4.conv_expand")).exp())
        y = linear(y * gate[:, None, None], state, f"{name}.5")
        x = x + state[f"blocks.{i}.gamma_1"] * y
        maps.append(x)
    return maps


def slow_aggregation(net, patches):
    """Class tokens (N, T, D) before the final norm and weights (N, T, keys), one query and one key at a time."""
    state, name = net.state_dict(), "blocks_token_only.0"
    tokens, all_weights = [], []
    for image in patches:
        left, rows = [], []
        classes = state["cls_token"][0]
        for token in classes:
            seen = [*image] if net.per_class else [*classes, *image]
            normed = [layer_norm(key, state, f"{name}.norm1") for key in seen]
            query = linear(layer_norm(token, state, f"{name}.norm1"), state, f"{name}.attn.q")
            scores = [float(query @ linear(key, state, f"{name}.attn.k")) / math.sqrt(len(query)) for key in normed]
            highest = max(scores)
            shares = [math.exp(score - highest) for score in scores]
            row = [share / sum(shares) for share in shares]
            gathered = sum(w * linear(key, state, f"{name}.attn.v") for w, key in zip(row, normed, strict=True))
            token = token + state[f"{name}.gamma_1"] * linear(gathered, state, f"{name}.attn.proj")  # noqa: PLW2901
            hidden = gelu(linear(layer_norm(token, state, f"{name}.norm2"), state, f"{name}.mlp.fc1"))
            left.append(token + state[f"{name}.gamma_2"] * linear(hidden, state, f"{name}.mlp.fc2"))
            rows.append(torch.tensor(row, dtype=patches.dtype))
        tokens.append(torch.stack(left))
        all_weights.append(torch.stack(rows))
    return torch.stack(tokens), torch.stack(all_weights)


@torch.no_grad()
def test_trunk_and_aggregation_are_their_formulas(model, net, per_class, images):
    maps = trunk_maps(net, entering(images))
    outputs = model.outputs(images, EVERYTHING)
    for i, x in enumerate(maps):
        assert outputs.tokens[i].grid == (14, 14)
        assert outputs.tokens[i].prefix.shape == (2, 0, WIDTH)
        close(outputs.tokens[i].patches, x.flatten(1, 2), 1e-4)
        close(outputs.normed_tokens[i].patches, layer_norm(x.flatten(1, 2), net.state_dict(), "norm"), 1e-3)
    patches = outputs.tokens[DEPTH - 1].patches
    tokens, weights = slow_aggregation(net, patches)
    assert torch.equal(outputs.tokens[DEPTH].patches, patches)
    close(outputs.attention[DEPTH].weights, weights[:, None], 1e-4)
    assert outputs.attention[DEPTH].kind == "class"
    normed = layer_norm(tokens, net.state_dict(), "norm")
    state = net.state_dict()
    if per_class:
        logits = torch.stack([linear(normed[:, i], state, f"head.{i}")[:, 0] for i in range(CLASSES)], dim=1)
    else:
        logits = linear(normed[:, 0], state, "head")
        close(outputs.tokens[DEPTH].prefix, tokens, 1e-4)
        close(outputs.normed_tokens[DEPTH].prefix, normed, 1e-4)
        close(model.outputs(images, OutputSpec(pooled=True)).pooled, normed[:, 0], 1e-4)
    close(outputs.logits["head"], logits, 1e-4)
    close(net(entering(images)), logits, 1e-4)


@torch.no_grad()
def test_attention_is_a_map_of_each_class_token_whose_rows_sum_to_one(model, net, per_class, images):
    weights = model.outputs(images, OutputSpec(attention=frozenset({DEPTH}))).attention[DEPTH].weights
    assert weights.shape == ((2, 1, CLASSES, CELLS) if per_class else (2, 1, 1, 1 + CELLS))
    close(weights.sum(-1), torch.ones(weights.shape[:-1]))
    assert weights.std(-1).min() > 0
    if per_class:
        assert (weights[:, :, 0] - weights[:, :, 1]).abs().max() > 1e-4


# --- what it gives ---------------------------------------------------------------------------------------------


def test_the_card_says_what_there_is(model, per_class):
    assert isinstance(model, Model)
    assert isinstance(model, SupportsIntervention)
    info = model.info
    assert (info.num_blocks, info.embed_dim, info.patch_size, info.num_classes) == (DEPTH + 1, WIDTH, 4, CLASSES)
    assert (info.heads, info.label_space, info.attention_blocks) == (("head",), "five", (DEPTH,))
    missing = {Capability.CLASS_TOKEN, Capability.POOLED} if per_class else {Capability.CLASS_TOKEN}
    assert info.capabilities == frozenset(Capability) - missing
    assert (info.prefix, info.pooled_dim) == (((), None) if per_class else (("cls",), WIDTH))


@torch.no_grad()
def test_the_class_token_is_in_the_last_block_only(model, per_class, images):
    tokens = model.outputs(images, EVERYTHING).tokens
    assert [tokens[i].prefix.shape[1] for i in range(DEPTH + 1)] == [0, 0, 0, 0 if per_class else 1]


@torch.no_grad()
def test_what_is_not_there_is_refused(model, per_class, images):
    with pytest.raises(CapabilityError, match="block 0 of model mini has no attention"):
        model.outputs(images, OutputSpec(attention=frozenset({0})))
    if per_class:
        with pytest.raises(CapabilityError, match="gives no pooled"):
            model.outputs(images, OutputSpec(pooled=True))


@torch.no_grad()
def test_one_call_is_one_pass_and_no_block_too_many(model, images):
    calls = []
    parts = [*model.net.blocks, *model.net.blocks_token_only]
    hooks = [part.register_forward_hook(lambda *_, i=i: calls.append(i)) for i, part in enumerate(parts)]
    model.outputs(images, EVERYTHING)
    assert calls == [0, 1, 2, 3]
    calls.clear()
    model.outputs(images, OutputSpec(tokens=frozenset({0}), normed_tokens=frozenset({1})))
    assert calls == [0, 1]
    for hook in hooks:
        hook.remove()


@torch.no_grad()
def test_maps_of_any_size_and_shape_are_taken(net):
    pixels = torch.rand(2, 3, 40, 28, generator=torch.Generator().manual_seed(3))
    assert net.patch_embed(pixels).shape == (2, WIDTH, 10, 7)
    assert net(pixels).shape == (2, CLASSES)
    four = shaken(miniature(stem_widths=None))
    assert four.patch_size == 16
    assert four.patch_embed(torch.zeros(1, 3, 224, 224)).shape == (1, WIDTH, 14, 14)


def test_learning_reaches_every_parameter_and_leaves_out_blocks_while_training(per_class):
    net = shaken(miniature(per_class=per_class, drop_path=0.5))
    pixels = torch.randn(4, 3, SIDE, SIDE, generator=torch.Generator().manual_seed(4))
    assert torch.equal(net(pixels), net(pixels))
    functional.cross_entropy(net(pixels), torch.arange(4)).backward()
    silent = [name for name, value in net.named_parameters() if value.grad is None or not value.grad.abs().max() > 1e-7]
    # A softmax is blind to what is the same for every key.
    assert set(silent) <= {"blocks_token_only.0.attn.k.bias"}
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        torch.default_generator.manual_seed(0)
        net.train()
        assert not torch.equal(net(pixels), net(pixels))


def test_gradients_reach_the_images_and_no_parameter(model, net, images):
    leaf = images.clone().requires_grad_()
    model.outputs(leaf, LOGITS).logits["head"][:, 0].sum().backward()
    twin = images.clone().requires_grad_()
    net(entering(twin))[:, 0].sum().backward()
    close(leaf.grad, twin.grad)
    assert all(gradient.abs().max() > 0 for gradient in leaf.grad)
    assert all(not parameter.requires_grad and parameter.grad is None for parameter in net.parameters())


# --- interventions ---------------------------------------------------------------------------------------------


@torch.no_grad()
def test_sites_see_what_enters_them(model, per_class, images):
    tokens = model.outputs(images, EVERYTHING).tokens
    clean, seen = model.outputs(images, LOGITS).logits["head"], {}
    for site in ("block:0", "block:1", f"block:{DEPTH}", "pool"):
        with model.intervene(site, lambda given, site=site: seen.setdefault(site, given), ids=IDS):
            close(model.outputs(images, LOGITS).logits["head"], clean)
    assert all(given.grid == (14, 14) and given.ids == IDS for given in seen.values())
    assert torch.equal(seen["block:1"].patches, tokens[0].patches)
    for site in ("pool", f"block:{DEPTH}"):
        assert torch.equal(seen[site].patches, tokens[DEPTH - 1].patches)
    assert [given.prefix.shape[1] for given in seen.values()] == [0, 0, 0 if per_class else 1, 0]
    if not per_class:
        assert torch.equal(seen[f"block:{DEPTH}"].prefix, model.net.cls_token.expand(2, -1, -1))


@torch.no_grad()
def test_what_enters_a_site_can_be_replaced(model, net, images):
    def left_half_to_zero(tokens):
        columns = torch.arange(tokens.patches.shape[1]) % tokens.grid[1]
        return replace(tokens, patches=tokens.patches * (columns >= tokens.grid[1] // 2).view(1, -1, 1))

    def expected(before):
        """The logits if the left half of the map that enters block ``before`` is zero."""
        x = net.patch_embed(entering(images))
        for i, block in enumerate([*net.blocks, None]):
            if i == before:
                x = torch.cat([torch.zeros_like(x[..., :7]), x[..., 7:]], dim=3)
            x = x if block is None else block(x)
        tokens, _ = net.aggregate(net.class_tokens(2), x.flatten(2).transpose(1, 2))
        return net.classify(net.norm(tokens))

    clean = model.outputs(images, LOGITS).logits["head"]
    for site, before in (("block:0", 0), ("block:2", 2), (f"block:{DEPTH}", DEPTH), ("pool", DEPTH)):
        with model.intervene(site, left_half_to_zero, ids=IDS):
            changed = model.outputs(images, LOGITS).logits["head"]
        close(changed, expected(before))
        assert (changed - clean).abs().max() > 1e-4
    assert torch.equal(model.outputs(images, LOGITS).logits["head"], clean)


@torch.no_grad()
def test_the_class_token_that_enters_the_aggregation_can_be_replaced(images):
    net = shaken(miniature())
    model, other = wrapped(net), torch.randn(1, 1, WIDTH, generator=torch.Generator().manual_seed(6))
    patches = model.outputs(images, EVERYTHING).tokens[DEPTH].patches
    expected = net.classify(net.norm(net.aggregate(other.expand(2, -1, -1), patches)[0]))
    with model.intervene(f"block:{DEPTH}", lambda t: replace(t, prefix=other.expand(2, -1, -1)), ids=IDS):
        close(model.outputs(images, LOGITS).logits["head"], expected)


@torch.no_grad()
def test_no_patch_can_be_dropped_and_unknown_sites_are_refused(model, images):
    kept = torch.arange(7).expand(2, -1)
    for site in ("block:1", f"block:{DEPTH}", "pool"):
        drop = lambda tokens: replace(tokens, patches=tokens.patches[:, :7], kept=kept)  # noqa: E731
        with pytest.raises(CapabilityError, match="every patch"), model.intervene(site, drop, ids=IDS):
            model.outputs(images, LOGITS)
    with pytest.raises(CapabilityError, match="pos_embed"), model.intervene("pos_embed", drop, ids=IDS):
        pass


# --- manners ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("check", [*model_checks.CHECKS, *intervention_checks.CHECKS], ids=lambda f: f.__name__)
def test_the_kit_finds_nothing(check, per_class):
    entry = ModelEntry(
        name="mini",
        target="nowhere:nothing",
        summary="a miniature",
        view=View(crop=SIDE),
        label_space="five",
        capabilities=frozenset(),
    )
    subject = Subject(entry=entry, make=lambda: wrapped(miniature(per_class=per_class)))
    try:
        check(subject)
    except NotApplicableError as reason:
        pytest.fail(f"the kit left it out: {reason}")
