"""T2T-ViT against published sizes, its formulas written out over single tokens, and the model kit on a miniature."""

import math
from dataclasses import replace

import pytest
import torch
from torch.nn import functional
from torch.utils.flop_counter import FlopCounterMode

from harness.backbones import t2t
from harness.backbones.t2t import T2TModel, T2TViT, sinusoids
from harness.entries import ModelEntry
from harness.errors import CapabilityError, ParameterError
from harness.protocols import Model, SupportsIntervention
from harness.testing import intervention_checks, model_checks
from harness.testing.kit import NotApplicableError, Subject
from harness.types import Capability, ModelInfo, OutputSpec, View, WeightsInfo

WIDTH, DEPTH, HEADS, RATIO, CLASSES, SIDE = 32, 3, 2, 2, 5, 64
GRID = (4, 4)
LOGITS = OutputSpec(logits=True)
EVERYTHING = OutputSpec(
    logits=True,
    pooled=True,
    tokens=frozenset(range(DEPTH)),
    normed_tokens=frozenset(range(DEPTH)),
    attention=frozenset(range(DEPTH)),
)
IDS = ("a", "b")
MEAN, STD = (0.5, 0.4, 0.3), (0.2, 0.3, 0.25)

SIZES = {7: (256, 4, 2), 14: (384, 6, 3), 19: (448, 7, 3), 24: (512, 8, 3)}
"""Width, heads and MLP ratio by depth: Yuan et al., Tables 1 and 2."""
PARAMETERS = {
    (7, "performer"): 4_310_222,
    (14, "performer"): 21_545_550,
    (19, "performer"): 39_177_422,
    (24, "performer"): 64_105_934,
    (7, "transformer"): 4_305_742,
    (14, "transformer"): 21_541_070,
    (19, "transformer"): 39_172_942,
    (24, "transformer"): 64_101_454,
}
PUBLISHED = {
    (7, "performer"): (4.3, 1.1),
    (14, "performer"): (21.5, 4.8),
    (19, "performer"): (39.2, 8.5),
    (24, "performer"): (64.1, 13.8),
    (14, "transformer"): (21.5, 6.1),
    (19, "transformer"): (39.2, 9.8),
    (24, "transformer"): (64.1, 15.0),
}
"""Millions of parameters and billions of MACs, as the authors tell them."""


def miniature(*, tokens="performer", seed=0, **changes):
    """A small network in eval mode on the 4 x 4 grid of 64 px images."""
    sizes = {
        "width": WIDTH,
        "depth": DEPTH,
        "heads": HEADS,
        "mlp_ratio": RATIO,
        "num_classes": CLASSES,
        "side": SIDE,
        "tokens": tokens,
    }
    return T2TViT(**{**sizes, **changes}, seed=seed).eval()


def shaken(net):
    """The same network with every parameter moved well off its initial value, so that every branch shows."""
    generator = torch.Generator().manual_seed(7)
    with torch.no_grad():
        for parameter in net.parameters():
            parameter.add_(0.1 * torch.randn(parameter.shape, generator=generator))
    return net


def wrapped(net):
    card = ModelInfo(
        name="mini",
        family="t2t",
        weights=WeightsInfo(origin="random", identity="random:mini:0"),
        view=View(crop=SIDE),
        mean=MEAN,
        std=STD,
        label_space="five",
        num_classes=None,
        num_blocks=0,
        embed_dim=0,
    )
    return T2TModel(net, card)


def entering(images):
    mean, std = (torch.tensor(values).view(1, 3, 1, 1) for values in (MEAN, STD))
    return (images - mean) / std


def close(a, b, tolerance=1e-5):
    torch.testing.assert_close(a, b, rtol=tolerance, atol=tolerance, check_dtype=False)


@pytest.fixture(params=["performer", "transformer"])
def tokens(request):
    return request.param


@pytest.fixture
def net(tokens):
    return shaken(miniature(tokens=tokens))


@pytest.fixture
def model(net):
    return wrapped(net)


@pytest.fixture
def images():
    return torch.rand(2, 3, SIDE, SIDE, generator=torch.Generator().manual_seed(1))


def on_meta(depth, tokens):
    width, heads, ratio = SIZES[depth]
    with torch.device("meta"):
        return T2TViT(width=width, depth=depth, heads=heads, mlp_ratio=ratio, num_classes=1000, tokens=tokens).eval()


# --- sizes -----------------------------------------------------------------------------------------------------


def linear_count(arriving, leaving, bias=True):
    return arriving * leaving + (leaving if bias else 0)


def token_layer_count(arriving, tokens):
    shared = 2 * arriving + linear_count(64, 64) + 2 * 64 + 2 * linear_count(64, 64)
    if tokens == "performer":
        return shared + linear_count(arriving, 3 * 64) + 32 * 64
    return shared + linear_count(arriving, 3 * 64, bias=False)


def formula(depth, tokens):
    """Parameters part by part, those that do not learn (positions, random features) included."""
    width, _, ratio = SIZES[depth]
    attention = linear_count(width, 3 * width, bias=False) + linear_count(width, width)
    mlp = linear_count(width, ratio * width) + linear_count(ratio * width, width)
    block = 2 * 2 * width + attention + mlp
    made = token_layer_count(3 * 7 * 7, tokens) + token_layer_count(64 * 3 * 3, tokens) + linear_count(576, width)
    ends = width + 197 * width + 2 * width + linear_count(width, 1000)
    return made + depth * block + ends


@pytest.mark.parametrize(("depth", "tokens"), PARAMETERS)
def test_parameters_are_as_many_as_published(depth, tokens):
    net = on_meta(depth, tokens)
    assert all(parameter.is_meta for parameter in net.parameters())
    count = sum(parameter.numel() for parameter in net.parameters())
    assert count == PARAMETERS[depth, tokens] == formula(depth, tokens)
    if (depth, tokens) in PUBLISHED:
        assert count / 1e6 == pytest.approx(PUBLISHED[depth, tokens][0], abs=0.06)
    fixed = {name: parameter.numel() for name, parameter in net.named_parameters() if not parameter.requires_grad}
    features = {f"tokens_to_token.attention{i}.w": 32 * 64 for i in (1, 2)} if tokens == "performer" else {}
    assert fixed == {"pos_embed": 197 * SIZES[depth][0], **features}


@pytest.mark.parametrize(("depth", "tokens"), PUBLISHED)
def test_multiplications_at_224_are_as_many_as_published(depth, tokens):
    with torch.device("meta"), FlopCounterMode(display=False) as counter:
        logits = on_meta(depth, tokens)(torch.empty(1, 3, 224, 224))
    assert logits.shape == (1, 1000)
    giga = counter.get_total_flops() / 2 / 1e9
    assert giga == pytest.approx(PUBLISHED[depth, tokens][1], rel=0.012, abs=0.05)


def test_the_parameters_have_the_names_and_shapes_of_the_authors_checkpoints(tokens):
    d, k, t = WIDTH, CLASSES, 64
    bias = lambda name, leaving, arriving: {f"{name}.weight": (leaving, arriving), f"{name}.bias": (leaving,)}  # noqa: E731
    norm = lambda name, width: {f"{name}.weight": (width,), f"{name}.bias": (width,)}  # noqa: E731
    expected = {
        "cls_token": (1, 1, d),
        "pos_embed": (1, 17, d),
        **bias("tokens_to_token.project", d, 9 * t),
        **norm("norm", d),
        **bias("head", k, d),
    }
    for name, arriving in (("tokens_to_token.attention1", 147), ("tokens_to_token.attention2", 576)):
        expected |= {**norm(f"{name}.norm1", arriving), **norm(f"{name}.norm2", t)}
        if tokens == "performer":
            expected |= {f"{name}.w": (32, t), **bias(f"{name}.kqv", 3 * t, arriving), **bias(f"{name}.proj", t, t)}
            expected |= {**bias(f"{name}.mlp.0", t, t), **bias(f"{name}.mlp.2", t, t)}
        else:
            expected |= {f"{name}.attn.qkv.weight": (3 * t, arriving), **bias(f"{name}.attn.proj", t, t)}
            expected |= {**bias(f"{name}.mlp.fc1", t, t), **bias(f"{name}.mlp.fc2", t, t)}
    for i in range(DEPTH):
        name = f"blocks.{i}"
        expected |= {**norm(f"{name}.norm1", d), **norm(f"{name}.norm2", d)}
        expected |= {f"{name}.attn.qkv.weight": (3 * d, d), **bias(f"{name}.attn.proj", d, d)}
        expected |= {**bias(f"{name}.mlp.fc1", RATIO * d, d), **bias(f"{name}.mlp.fc2", d, RATIO * d)}
    found = {name: tuple(value.shape) for name, value in miniature(tokens=tokens).state_dict().items()}
    assert found == expected


def test_sizes_that_make_no_network_are_refused():
    with pytest.raises(ParameterError, match="multiple of 16, not 65"):
        miniature(side=65)
    with pytest.raises(ParameterError, match="performer, transformer, not 'convolution'"):
        miniature(tokens="convolution")
    for changes in ({"depth": 0}, {"heads": 3}, {"num_classes": 0}):
        with pytest.raises(ParameterError, match="make no network"):
            miniature(**changes)


# --- initial parameters ----------------------------------------------------------------------------------------


def test_initial_parameters_are_those_of_their_seed_and_the_global_state_stays(tokens):
    torch.manual_seed(3)
    state = torch.get_rng_state()
    first, again, other = (miniature(tokens=tokens, seed=seed).state_dict() for seed in (1, 1, 2))
    assert torch.equal(torch.get_rng_state(), state)
    assert all(torch.equal(value, again[name]) for name, value in first.items())
    for name in ("cls_token", "blocks.2.attn.qkv.weight", "tokens_to_token.project.weight"):
        assert not torch.equal(first[name], other[name])


def test_initial_parameters_are_spread_as_in_the_authors_code():
    net = miniature(width=256, heads=4)
    for name, value in net.state_dict().items():
        if name.endswith(".w"):
            close(value @ value.T, 32 * torch.eye(32), 1e-4)
        elif name == "pos_embed":
            assert torch.equal(value, sinusoids(17, 256))
        elif "norm" in name or name.endswith("bias"):
            assert (value == (1 if name.endswith("weight") else 0)).all()
        elif value.numel() > 3000:
            assert value.std().item() == pytest.approx(0.02, rel=0.05)


def test_positions_are_the_sinusoids_of_the_transformer_paper():
    table = sinusoids(17, WIDTH)[0]
    for place in range(17):
        for j in range(WIDTH):
            angle = place / 10000 ** (2 * (j // 2) / WIDTH)
            expected = math.cos(angle) if j % 2 else math.sin(angle)
            assert table[place, j].item() == pytest.approx(expected, abs=1e-6)


# --- the same numbers, computed otherwise ----------------------------------------------------------------------


def layer_norm(x, state, name):
    """Over the last dimension."""
    centred = x - x.mean(-1, keepdim=True)
    scaled = centred / (centred.square().mean(-1, keepdim=True) + 1e-5).sqrt()
    return scaled * state[f"{name}.weight"] + state[f"{name}.bias"]


def gelu(x):
    return x * (1 + torch.erf(x / math.sqrt(2))) / 2


def linear(x, state, name):
    return x @ state[f"{name}.weight"].T + state.get(f"{name}.bias", 0)


def soft_split(x, kernel, stride, padding):
    """A map (C, H, W) to tokens (T, C * kernel^2), one window at a time, channels slowest."""
    padded = functional.pad(x, (padding,) * 4)
    starts = range(0, padded.shape[1] - kernel + 1, stride)
    windows = [padded[:, top : top + kernel, left : left + kernel].flatten() for top in starts for left in starts]
    return torch.stack(windows)


def performed(x, state, name):
    """One query at a time, with its weights over all keys."""
    key, query, value = linear(x, state, f"{name}.kqv").split(64, dim=1)
    w = state[f"{name}.w"]

    def features(token):
        return (w @ token - token @ token / 2).exp() / math.sqrt(32)

    of_keys = torch.stack([features(token) for token in key])
    gathered = []
    for token in query:
        shares = of_keys @ features(token)
        gathered.append((shares[:, None] * value).sum(0) / (shares.sum() + 1e-8))
    return value + linear(torch.stack(gathered), state, f"{name}.proj")


def attended_by_one_head(x, state, name):
    query, key, value = linear(x, state, f"{name}.attn.qkv").split(64, dim=1)
    gathered = []
    for token in query:
        scores = torch.stack([token @ other for other in key]) / math.sqrt(x.shape[1])
        gathered.append((scores.softmax(0)[:, None] * value).sum(0))
    return value + linear(torch.stack(gathered), state, f"{name}.attn.proj")


def token_layer(x, state, name):
    normed = layer_norm(x, state, f"{name}.norm1")
    if f"{name}.w" in state:
        x, hidden, out = performed(normed, state, name), "mlp.0", "mlp.2"
    else:
        x, hidden, out = attended_by_one_head(normed, state, name), "mlp.fc1", "mlp.fc2"
    inner = gelu(linear(layer_norm(x, state, f"{name}.norm2"), state, f"{name}.{hidden}"))
    return x + linear(inner, state, f"{name}.{out}")


def laid_out(tokens):
    side = math.isqrt(len(tokens))
    return tokens.T.reshape(-1, side, side)


def slow_block(x, state, name):
    """Tokens (T, D) that leave a block, and its attention weights (heads, T, T)."""
    query, key, value = linear(layer_norm(x, state, f"{name}.norm1"), state, f"{name}.attn.qkv").split(WIDTH, dim=1)
    gathered, every = [], []
    per_head = WIDTH // HEADS
    for head in range(HEADS):
        part = slice(head * per_head, (head + 1) * per_head)
        weights = (query[:, part] @ key[:, part].T / math.sqrt(per_head)).softmax(dim=1)
        every.append(weights)
        gathered.append(weights @ value[:, part])
    x = x + linear(torch.cat(gathered, dim=1), state, f"{name}.attn.proj")
    inner = gelu(linear(layer_norm(x, state, f"{name}.norm2"), state, f"{name}.mlp.fc1"))
    return x + linear(inner, state, f"{name}.mlp.fc2"), torch.stack(every)


def slow_patches(state, pixels):
    """The patch tokens (K, D) of one image (3, H, W), without positions."""
    x = token_layer(soft_split(pixels, 7, 4, 2), state, "tokens_to_token.attention1")
    x = token_layer(soft_split(laid_out(x), 3, 2, 1), state, "tokens_to_token.attention2")
    return linear(soft_split(laid_out(x), 3, 2, 1), state, "tokens_to_token.project")


def doubled(net):
    return {name: value.double() for name, value in net.state_dict().items()}


@torch.no_grad()
def test_logits_tokens_and_attention_are_the_formulas(model, net, images):
    outputs, state = model.outputs(images, EVERYTHING), doubled(net)
    for n, pixels in enumerate(entering(images).double()):
        x = torch.cat([state["cls_token"][0], slow_patches(state, pixels)]) + state["pos_embed"][0]
        for i in range(DEPTH):
            x, weights = slow_block(x, state, f"blocks.{i}")
            normed = layer_norm(x, state, "norm")
            close(outputs.attention[i].weights[n], weights, 1e-4)
            for given, expected in ((outputs.tokens[i], x), (outputs.normed_tokens[i], normed)):
                close(torch.cat([given.prefix[n], given.patches[n]]), expected, 1e-4)
        close(outputs.pooled[n], normed[0], 1e-4)
        close(outputs.logits["head"][n], linear(normed[0], state, "head"), 1e-4)
    assert weights.std(dim=2).min() > 1e-3
    close(net(entering(images)), outputs.logits["head"])


@torch.no_grad()
def test_the_head_of_the_normed_last_class_token_gives_the_logits(model, net, images):
    outputs = model.outputs(images, EVERYTHING)
    last = outputs.tokens[DEPTH - 1].prefix[:, 0]
    close(net.head(net.norm(last)), outputs.logits["head"])
    close(outputs.normed_tokens[DEPTH - 1].prefix[:, 0], outputs.pooled)


@torch.no_grad()
def test_half_precision_leaves_the_random_features_alone():
    layer = shaken(miniature()).tokens_to_token.attention1
    query, key, value = torch.randn(3, 2, 9, 64, generator=torch.Generator().manual_seed(2)).unbind(0)
    exact = layer._attended(query, key, value)
    assert exact.isfinite().all()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(layer._attended(query, key, value), exact)
        assert layer._attended(query.bfloat16(), key.bfloat16(), value.bfloat16()).dtype == torch.bfloat16


# --- what it gives ---------------------------------------------------------------------------------------------


def test_the_card_says_what_there_is(model):
    assert isinstance(model, Model)
    assert isinstance(model, SupportsIntervention)
    info = model.info
    assert (info.num_blocks, info.embed_dim, info.patch_size, info.num_classes) == (DEPTH, WIDTH, 16, CLASSES)
    assert (info.heads, info.prefix, info.label_space, info.pooled_dim) == (("head",), ("cls",), "five", WIDTH)
    assert info.capabilities == frozenset(Capability)
    assert info.attention_blocks is None


@torch.no_grad()
def test_only_blocks_whose_attention_is_wanted_leave_the_fused_kernel(net, images, monkeypatch):
    model, fused = wrapped(net), []
    kernel = functional.scaled_dot_product_attention
    monkeypatch.setattr(
        t2t.functional, "scaled_dot_product_attention", lambda *q, **k: fused.append(q[0].shape[1]) or kernel(*q, **k)
    )
    clean = model.outputs(images, LOGITS).logits["head"]
    assert fused.count(HEADS) == DEPTH
    fused.clear()
    wanted = model.outputs(images, OutputSpec(logits=True, attention=frozenset({1})))
    assert fused.count(HEADS) == DEPTH - 1
    assert set(wanted.attention) == {1}
    close(wanted.logits["head"], clean)
    fused.clear()
    model.outputs(images, LOGITS)
    assert fused.count(HEADS) == DEPTH


@torch.no_grad()
def test_no_block_too_many_is_run(model, images):
    calls = []
    for i, block in enumerate(model.net.blocks):
        block.register_forward_hook(lambda *_, i=i: calls.append(i))
    model.outputs(images, OutputSpec(tokens=frozenset({0}), normed_tokens=frozenset({1})))
    assert calls == [0, 1]


@torch.no_grad()
def test_the_grid_follows_the_input_size(tokens):
    net = shaken(miniature(tokens=tokens, side=96))
    assert net.grid == (6, 6)
    outputs = wrapped(net).outputs
    with pytest.raises(RuntimeError):
        # The card says 64 px, the network's positions are for 96.
        outputs(torch.zeros(1, 3, 96, 96), LOGITS)
    assert net(torch.zeros(1, 3, 96, 96)).shape == (1, CLASSES)


def test_gradients_reach_the_images_and_no_parameter(model, net, images):
    leaf = images.clone().requires_grad_()
    model.outputs(leaf, LOGITS).logits["head"][:, 0].sum().backward()
    twin = images.clone().requires_grad_()
    net(entering(twin))[:, 0].sum().backward()
    close(leaf.grad, twin.grad)
    assert all(gradient.abs().max() > 0 for gradient in leaf.grad)
    assert all(not parameter.requires_grad and parameter.grad is None for parameter in net.parameters())


# --- positions and interventions -------------------------------------------------------------------------------


def reversed_places(tokens):
    return replace(tokens, patches=tokens.patches.flip(1))


def all_alike(tokens):
    return replace(tokens, patches=tokens.patches.mean(1, keepdim=True).expand_as(tokens.patches))


@torch.no_grad()
def test_without_positions_the_order_of_the_patches_does_not_matter(model, images):
    clean = model.outputs(images, LOGITS).logits["head"]
    with model.intervene("pos_embed", reversed_places, ids=IDS):
        assert (model.outputs(images, LOGITS).logits["head"] - clean).abs().max() > 1e-4
    with model.intervene("pos_embed", all_alike, ids=IDS):
        alike = model.outputs(images, LOGITS).logits["head"]
        with model.intervene("pos_embed", reversed_places, ids=IDS):
            close(model.outputs(images, LOGITS).logits["head"], alike)
    assert (alike - clean).abs().max() > 1e-4


@torch.no_grad()
def test_sites_see_what_enters_them(model, net, images):
    clean, seen = model.outputs(images, EVERYTHING), {}
    for site in ("pos_embed", "block:0", "block:1", "block:2"):
        with model.intervene(site, lambda given, site=site: seen.setdefault(site, given), ids=IDS):
            close(model.outputs(images, LOGITS).logits["head"], clean.logits["head"])
    assert all(given.grid == GRID and given.ids == IDS and given.kept is None for given in seen.values())
    assert torch.equal(seen["pos_embed"].patches, net.pos_embed[:, 1:].expand(2, -1, -1))
    assert torch.equal(seen["pos_embed"].prefix, net.pos_embed[:, :1].expand(2, -1, -1))
    for i in (1, 2):
        close(seen[f"block:{i}"].patches, clean.tokens[i - 1].patches)
        close(seen[f"block:{i}"].prefix, clean.tokens[i - 1].prefix)
    close(seen["block:0"].prefix, (net.cls_token + net.pos_embed[:, :1]).expand(2, -1, -1))
    assert all(tokens.grid == GRID for tokens in clean.tokens.values())


KEPT = torch.tensor([[0, 5, 7, 15], [1, 2, 3, 12]])


def keep_four(tokens):
    return replace(tokens, patches=tokens.patches.take_along_dim(KEPT.unsqueeze(-1), 1), kept=KEPT)


@pytest.mark.parametrize("site", ["pos_embed", "block:0", "block:2"])
@torch.no_grad()
def test_dropped_patches_are_gone_from_there_on(model, net, images, site):
    x = torch.cat([net.cls_token.expand(2, -1, -1), net.tokens_to_token(entering(images))], 1) + net.pos_embed
    first = 0 if site == "pos_embed" else int(site[-1])
    rows = torch.cat([torch.zeros(2, 1, dtype=torch.int64), KEPT + 1], dim=1).unsqueeze(-1)
    for i, block in enumerate(net.blocks):
        x = block(x.take_along_dim(rows, 1) if i == first else x)
    with model.intervene(site, keep_four, ids=IDS):
        outputs = model.outputs(images, EVERYTHING)
    close(outputs.logits["head"], net.head(net.norm(x[:, 0])))
    for i in range(DEPTH):
        count, grid = (4, (1, 4)) if i >= first else (16, GRID)
        assert (outputs.tokens[i].patches.shape[1], outputs.tokens[i].grid) == (count, grid)
        assert outputs.attention[i].weights.shape == (2, HEADS, 1 + count, 1 + count)


@torch.no_grad()
def test_unknown_sites_are_refused(model):
    for site in ("pool", "block:3"):
        with pytest.raises(CapabilityError, match="has no site"), model.intervene(site, all_alike, ids=IDS):
            pass


# --- manners ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("check", [*model_checks.CHECKS, *intervention_checks.CHECKS], ids=lambda f: f.__name__)
def test_the_kit_finds_nothing(check, tokens):
    entry = ModelEntry(
        name="mini",
        target="nowhere:nothing",
        summary="a miniature",
        view=View(crop=SIDE),
        label_space="five",
        capabilities=frozenset(),
    )
    subject = Subject(entry=entry, make=lambda: wrapped(miniature(tokens=tokens)))
    try:
        check(subject)
    except NotApplicableError as reason:
        pytest.fail(f"the kit left it out: {reason}")
