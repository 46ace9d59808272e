"""Wrapped Vision Transformers against bare timm, and interventions against running timm on changed tokens."""

from dataclasses import replace

import pytest
import torch

from harness.backbones.vision_transformer import TransformerModel
from harness.errors import CapabilityError, ParameterError
from harness.protocols import Model, SupportsIntervention
from harness.types import Capability, OutputSpec

KINDS = ("plain", "registers", "distilled")
LOGITS = OutputSpec(logits=True)


@pytest.fixture(params=KINDS)
def kind(request):
    return request.param


@pytest.fixture(autouse=True)
def _no_gradients():
    with torch.no_grad():
        yield


def close(a, b, tolerance=1e-5):
    torch.testing.assert_close(a, b, rtol=tolerance, atol=tolerance)


def run_from(net, x):
    """The rest of timm's own forward, from the tokens that enter the first block."""
    return net.forward_head(net.norm(net.blocks(net.norm_pre(x))))


def default_head(model, images, **want):
    outputs = model.outputs(images, OutputSpec(logits=True, **want))
    return outputs.logits[model.info.heads[0]]


def ids_of(images):
    return tuple(f"image{i}" for i in range(len(images)))


# --- the same numbers as timm ----------------------------------------------------------------------------------


def test_logits_are_timms(built, bare, pixels, normalised, kind):
    images = pixels(kind)
    assert isinstance(built(kind), Model)
    assert isinstance(built(kind), SupportsIntervention)
    close(default_head(built(kind), images), bare(kind)(normalised(kind, images)))


def test_tokens_are_timms_intermediates(built, bare, pixels, normalised, kind):
    images, model = pixels(kind), built(kind)
    blocks = frozenset({0, 2, model.info.num_blocks - 1})
    outputs = model.outputs(images, OutputSpec(tokens=blocks, normed_tokens=blocks))
    for norm, found in ((False, outputs.tokens), (True, outputs.normed_tokens)):
        expected = bare(kind).forward_intermediates(
            normalised(kind, images),
            indices=sorted(blocks),
            norm=norm,
            return_prefix_tokens=True,
            intermediates_only=True,
        )
        assert set(found) == blocks
        for block, (patches, prefix) in zip(sorted(blocks), expected, strict=True):
            close(found[block].prefix, prefix)
            close(found[block].patches, patches.flatten(2).transpose(1, 2))
            assert found[block].grid == tuple(patches.shape[2:])
            assert found[block].prefix.shape[1] == len(model.info.prefix)


@pytest.mark.parametrize("kind", ["plain", "registers"], indirect=True)
def test_pooled_is_timms_pre_logits(built, bare, pixels, normalised, kind):
    images, net = pixels(kind), bare(kind)
    expected = net.forward_head(net.forward_features(normalised(kind, images)), pre_logits=True)
    found = built(kind).outputs(images, OutputSpec(pooled=True)).pooled
    close(found, expected)
    assert found.shape[1] == built(kind).info.pooled_dim


def test_distilled_heads_and_pooled(built, bare, pixels, normalised):
    images, net = pixels("distilled"), bare("distilled")
    x = net.forward_features(normalised("distilled", images))
    outputs = built("distilled").outputs(images, OutputSpec(logits=True, pooled=True))
    assert list(outputs.logits) == ["average", "cls", "dist"] == list(built("distilled").info.heads)
    close(outputs.logits["cls"], net.head(x[:, 0]))
    close(outputs.logits["dist"], net.head_dist(x[:, 1]))
    close(outputs.logits["average"], net(normalised("distilled", images)))
    close(outputs.pooled, x[:, 0])
    assert built("distilled").info.prefix == ("cls", "dist")


def test_the_second_token_of_a_distilled_network_can_be_one_of_shape(built, pixels, card):
    plain, images = built("distilled"), pixels("distilled")
    shape = TransformerModel(built("distilled").net, card("distilled"), second_token="shape")
    assert shape.info.prefix == ("cls", "shape")
    assert shape.info.heads == ("average", "cls", "shape")
    want = OutputSpec(logits=True, pooled=True, normed_tokens=frozenset({11}))
    expected, found = plain.outputs(images, want), shape.outputs(images, want)
    assert list(found.logits) == ["average", "cls", "shape"]
    for head, same in (("average", "average"), ("cls", "cls"), ("shape", "dist")):
        assert torch.equal(found.logits[head], expected.logits[same])
    assert torch.equal(found.pooled, expected.pooled)
    assert torch.equal(found.normed_tokens[11].prefix, expected.normed_tokens[11].prefix)


@pytest.mark.parametrize("name", ["", "cls", "average"])
def test_the_second_token_has_a_name_of_its_own(built, card, name):
    with pytest.raises(ParameterError, match="name of its own"):
        TransformerModel(built("distilled").net, card("distilled"), second_token=name)


def test_a_network_without_a_second_token_has_none_to_name(built, card):
    assert built("plain").info.prefix == ("cls",)
    with pytest.raises(ParameterError, match="'shape', but the network has no second token"):
        TransformerModel(built("plain").net, card("plain"), second_token="shape")


def test_attention_is_the_softmax_of_queries_and_keys(built, bare, pixels, normalised, kind):
    images, net = pixels(kind), bare(kind)
    last = len(net.blocks) - 1
    outputs = built(kind).outputs(images, OutputSpec(logits=True, attention=frozenset({0, last})))
    x = net.norm_pre(net._pos_embed(net.patch_embed(normalised(kind, images))))
    for i, block in enumerate(net.blocks):
        if i in (0, last):
            layer, entering = block.attn, block.norm1(x)
            n, t, _ = entering.shape
            q, k, _ = layer.qkv(entering).reshape(n, t, 3, layer.num_heads, -1).unbind(2)
            scores = torch.einsum("nqhd,nkhd->nhqk", layer.q_norm(q), layer.k_norm(k)) / q.shape[-1] ** 0.5
            expected = scores.exp() / scores.exp().sum(-1, keepdim=True)
            close(outputs.attention[i].weights, expected)
            assert outputs.attention[i].kind == "global"
        x = block(x)
    # The two kernels sum in different orders.
    close(outputs.logits[built(kind).info.heads[0]], default_head(built(kind), images), 2e-4)


def test_only_the_blocks_asked_for_leave_the_fused_kernel_and_only_then(built, pixels, monkeypatch):
    model, fused = built("plain"), []
    attention = [block.attn for block in model.net.blocks]
    hooks = [layer.register_forward_pre_hook(lambda layer, _: fused.append(layer.fused_attn)) for layer in attention]
    before = [layer.fused_attn for layer in attention]
    assert all(before), "this machine's timm does not fuse at all, so the test shows nothing"
    model.outputs(pixels("plain"), OutputSpec(logits=True, attention=frozenset({1, 4})))
    for hook in hooks:
        hook.remove()
    assert fused == [i not in (1, 4) for i in range(6)]
    assert [layer.fused_attn for layer in attention] == before
    assert not any(layer.attn_drop._forward_pre_hooks for layer in attention)
    monkeypatch.setattr(model.net.blocks[2], "forward", lambda _: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        model.outputs(pixels("plain"), OutputSpec(logits=True, attention=frozenset({1})))
    assert [layer.fused_attn for layer in attention] == before


def test_gradients_are_timms_and_reach_no_parameter(built, bare, pixels, normalised, kind):
    with torch.enable_grad():
        ours, theirs = (pixels(kind).requires_grad_() for _ in range(2))
        default_head(built(kind), ours)[:, 3].sum().backward()
        bare(kind)(normalised(kind, theirs))[:, 3].sum().backward()
    close(ours.grad, theirs.grad, 1e-4)
    assert all(not parameter.requires_grad and parameter.grad is None for parameter in built(kind).net.parameters())


def test_pixels_of_another_size_are_resized_inside(built, pixels):
    model, images = built("plain"), pixels("plain")
    larger = torch.nn.functional.interpolate(images, size=(200, 200), mode="nearest")
    again = torch.nn.functional.interpolate(larger, size=(160, 160), mode="bicubic", antialias=True).clamp(0, 1)
    close(default_head(model, larger), default_head(model, again))


# --- one call --------------------------------------------------------------------------------------------------


def test_parts_of_one_call_are_those_of_separate_calls(built, pixels, kind):
    model, images = built(kind), pixels(kind)
    parts = [
        OutputSpec(logits=True),
        OutputSpec(pooled=True),
        OutputSpec(tokens=frozenset({1, 3})),
        OutputSpec(normed_tokens=frozenset({2})),
    ]
    union = parts[0] | parts[1] | parts[2] | parts[3]
    whole = model.outputs(images, union)
    for head in model.info.heads:
        assert torch.equal(whole.logits[head], model.outputs(images, parts[0]).logits[head])
    assert torch.equal(whole.pooled, model.outputs(images, parts[1]).pooled)
    for block, tokens in model.outputs(images, parts[2]).tokens.items():
        assert torch.equal(whole.tokens[block].patches, tokens.patches)
    assert torch.equal(whole.normed_tokens[2].patches, model.outputs(images, parts[3]).normed_tokens[2].patches)
    only = model.outputs(images, parts[2])
    assert (only.logits, only.pooled, only.normed_tokens, only.attention) == ({}, None, {}, {})


def test_one_call_is_one_pass_and_no_block_too_many(built, pixels):
    model, calls = built("plain"), []
    hooks = [b.register_forward_hook(lambda *_, i=i: calls.append(i)) for i, b in enumerate(model.net.blocks)]
    model.outputs(
        pixels("plain"), OutputSpec(logits=True, pooled=True, tokens=frozenset({5}), attention=frozenset({0}))
    )
    assert calls == list(range(6))
    calls.clear()
    model.outputs(pixels("plain"), OutputSpec(tokens=frozenset({1}), normed_tokens=frozenset({2})))
    assert calls == [0, 1, 2]
    for hook in hooks:
        hook.remove()


def test_batches_can_be_split(built, pixels, kind):
    images = pixels(kind, 4)
    parts = torch.cat([default_head(built(kind), images[:1]), default_head(built(kind), images[1:])])
    close(parts, default_head(built(kind), images))


def test_logits_stay_float32_under_autocast(built, pixels):
    with torch.autocast("cpu", dtype=torch.bfloat16):
        outputs = built("plain").outputs(pixels("plain"), OutputSpec(logits=True, tokens=frozenset({0})))
    assert outputs.logits["head"].dtype == torch.float32
    exact = default_head(built("plain"), pixels("plain"))
    assert not torch.equal(outputs.logits["head"], exact)
    close(outputs.logits["head"], exact, 0.1)


def test_what_is_not_claimed_is_refused(built, pixels):
    model = built("registers")
    assert Capability.CLASS_TOKEN not in model.info.capabilities
    assert model.info.prefix == ("register0",)
    with pytest.raises(CapabilityError, match="block 9 "):
        model.outputs(pixels("registers"), OutputSpec(tokens=frozenset({9})))


# --- interventions ---------------------------------------------------------------------------------------------


def sites_of(model):
    return ["pos_embed", *(f"block:{i}" for i in range(model.info.num_blocks))]


def keep(indices):
    """An intervention that keeps the patches ``indices`` (N, K) of those that are there."""

    def fn(tokens):
        before = tokens.kept
        if before is None:
            before = torch.arange(tokens.patches.shape[1]).expand(len(tokens.patches), -1)
        return replace(
            tokens,
            patches=tokens.patches.take_along_dim(indices.unsqueeze(-1), dim=1),
            kept=before.take_along_dim(indices, dim=1),
        )

    return fn


def some_patches(n, cells, count, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.stack([torch.randperm(cells, generator=generator)[:count].sort().values for _ in range(n)])


def test_changing_nothing_changes_nothing(built, pixels, kind):
    model, images = built(kind), pixels(kind)
    clean = default_head(model, images)
    seen = []
    for site in sites_of(model):
        with model.intervene(site, lambda tokens: seen.append(tokens) or tokens, ids=ids_of(images)):
            close(default_head(model, images), clean)
    assert len(seen) == len(sites_of(model))
    cells = model.info.input_size // model.info.patch_size
    for tokens in seen:
        assert tokens.grid == (cells, cells)
        assert tokens.prefix.shape == (3, len(model.info.prefix), model.info.embed_dim)
        assert tokens.patches.shape == (3, cells**2, model.info.embed_dim)
        assert tokens.ids == ids_of(images)
        assert tokens.kept is None
    assert torch.equal(default_head(model, images), clean)


def test_dropping_patches_is_running_timm_on_fewer_tokens(built, bare, pixels, normalised, kind):
    model, net, images = built(kind), bare(kind), pixels(kind)
    cells = net.patch_embed.num_patches
    left = some_patches(len(images), cells, cells // 3)
    x = net._pos_embed(net.patch_embed(normalised(kind, images)))
    p = len(model.info.prefix)
    fewer = torch.stack([torch.cat([row[:p], row[p:][kept]]) for row, kept in zip(x, left, strict=True)])
    for site in ("block:0", "pos_embed"):
        with model.intervene(site, keep(left), ids=ids_of(images)):
            close(default_head(model, images), run_from(net, fewer))


def test_dropping_in_the_middle_and_again(built, bare, pixels, normalised):
    model, net, images = built("plain"), bare("plain"), pixels("plain")
    first, second = some_patches(3, 100, 60), some_patches(3, 60, 10, seed=1)
    x = net.norm_pre(net._pos_embed(net.patch_embed(normalised("plain", images))))
    for i, block in enumerate(net.blocks):
        if i in (2, 4):
            chosen = first if i == 2 else second
            x = torch.cat([x[:, :1], x[:, 1:].take_along_dim(chosen.unsqueeze(-1), dim=1)], dim=1)
        x = block(x)
    seen = []
    want = OutputSpec(logits=True, tokens=frozenset({1, 3, 5}), attention=frozenset({5}))
    with (
        model.intervene("block:2", keep(first), ids=ids_of(images)),
        model.intervene("block:4", lambda t: seen.append(t.kept) or keep(second)(t), ids=ids_of(images)),
    ):
        outputs = model.outputs(images, want)
    close(outputs.logits["head"], net.forward_head(net.norm(x)))
    assert torch.equal(seen[0], first)
    assert [outputs.tokens[i].grid for i in (1, 3, 5)] == [(10, 10), (1, 60), (1, 10)]
    assert outputs.attention[5].weights.shape[-2:] == (11, 11)


def test_position_embeddings_can_be_ablated(built, bare, pixels, normalised, kind):
    model, net, images = built(kind), bare(kind), pixels(kind)
    clean = default_head(model, images)
    with model.intervene(
        "pos_embed",
        lambda tokens: replace(
            tokens, prefix=torch.zeros_like(tokens.prefix), patches=torch.zeros_like(tokens.patches)
        ),
        ids=ids_of(images),
    ):
        ablated = default_head(model, images)
    positions = net.pos_embed.clone()
    net.pos_embed.zero_()
    expected = net(normalised(kind, images))
    net.pos_embed.copy_(positions)
    close(ablated, expected)
    assert (ablated - clean).abs().max() > 1e-4


def test_the_order_of_patches_matters_to_the_position_embeddings_only(built, pixels):
    model, images = built("plain"), pixels("plain")
    generator = torch.Generator().manual_seed(1)
    order = torch.stack([torch.randperm(100, generator=generator) for _ in range(3)])

    def shuffle(tokens):
        return replace(tokens, patches=tokens.patches.take_along_dim(order.unsqueeze(-1), dim=1))

    clean = default_head(model, images)
    with model.intervene("block:3", shuffle, ids=ids_of(images)):
        close(default_head(model, images), clean)
    with model.intervene("pos_embed", shuffle, ids=ids_of(images)):
        assert (default_head(model, images) - clean).abs().max() > 1e-5


def test_interventions_at_one_site_act_in_order_of_opening_and_end(built, pixels):
    model, images = built("plain"), pixels("plain")
    clean = default_head(model, images)
    double = lambda tokens: replace(tokens, patches=tokens.patches * 2)  # noqa: E731
    plus = lambda tokens: replace(tokens, patches=tokens.patches + 1)  # noqa: E731
    both = lambda tokens: replace(tokens, patches=tokens.patches * 2 + 1)  # noqa: E731
    ids = ids_of(images)
    with model.intervene("block:1", both, ids=ids):
        expected = default_head(model, images)
    with model.intervene("block:1", double, ids=ids), model.intervene("block:1", plus, ids=ids):
        close(default_head(model, images), expected)
    with pytest.raises(ZeroDivisionError), model.intervene("block:1", lambda _: 1 / 0, ids=ids):
        model.outputs(images, LOGITS)
    assert torch.equal(default_head(model, images), clean)


def test_what_an_intervention_may_not_do(built, pixels):
    model, images = built("plain"), pixels("plain")
    with pytest.raises(CapabilityError, match="no site 'blok:1'") as caught, model.intervene("blok:1", None, ids=()):
        pass
    assert "block:1" in str(caught.value.hint)
    with (
        pytest.raises(ParameterError, match="opened for 2 ids, but 3 images"),
        model.intervene("block:1", lambda tokens: tokens, ids=("a", "b")),
    ):
        model.outputs(images, LOGITS)
    for wrong in (
        lambda tokens: replace(tokens, patches=tokens.patches[:, :5]),
        lambda tokens: replace(tokens, prefix=tokens.prefix[:, :0]),
        lambda tokens: replace(tokens, kept=some_patches(3, 100, 7)),
    ):
        with pytest.raises(ParameterError, match="kept"), model.intervene("block:1", wrong, ids=ids_of(images)):
            model.outputs(images, LOGITS)
