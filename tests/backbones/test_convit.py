"""Wrapped ConViTs against bare timm, and gated positional attention against its formula, with all patches and fewer."""

from dataclasses import replace

import pytest
import torch
from every_transformer import EveryTransformer
from reduced import (
    CASES,
    bare,
    build,
    built,
    card,
    close,
    everything,
    ids_of,
    keep,
    logits,
    normalised,
    pixels,
    random_network,
    rows,
    seen_by,
    softmax,
    some_patches,
    split_heads,
    zeroed,
)

from harness.types import Capability, OutputSpec


@pytest.fixture(params=("convit", "convit_no_positions"))
def name(request):
    return request.param


def gated_by_hand(layer, x, places, side):
    """The gated map of one image's patches ``x`` (K, D), which lie at ``places`` of a grid ``side`` wide."""
    heads, found = layer.num_heads, []
    q, k = (layer.qk(x)[None].chunk(2, dim=-1)[part] for part in (0, 1))
    content = softmax(split_heads(q, heads)[0] @ split_heads(k, heads)[0].transpose(1, 2) / (x.shape[1] / heads) ** 0.5)
    for head in range(heads):
        (by_x, by_y, by_square), bias = layer.pos_proj.weight[head], layer.pos_proj.bias[head]
        scores = torch.empty(len(places), len(places))
        for i, place in enumerate(places):
            for j, other in enumerate(places):
                dx, dy = other % side - place % side, other // side - place // side
                scores[i, j] = by_x * dx + by_y * dy + by_square * (dx**2 + dy**2) + bias
        gate = 1 / (1 + (-layer.gating_param[head]).exp())
        weights = (1 - gate) * content[head] + gate * softmax(scores)
        found.append(weights / weights.sum(dim=1, keepdim=True))
    return torch.stack(found)


def gpsa_block(block, x, places, side):
    """A whole block of patches (N, K, D) at ``places`` (N, K), with attention by hand."""
    normed = block.norm1(x)
    weights = torch.stack(
        [gated_by_hand(block.attn, *image, side) for image in zip(normed, places.tolist(), strict=True)]
    )
    gathered = weights @ split_heads(block.attn.v(normed), block.attn.num_heads)
    x = x + block.attn.proj(gathered.transpose(1, 2).flatten(2))
    return x + block.mlp(block.norm2(x))


def embedded(net, images):
    x = net.patch_embed(normalised(images))
    return x + net.pos_embed if net.use_pos_embed else x


def rest(net, x):
    """timm's own forward from the patches that leave the last gated block."""
    x = torch.cat([net.cls_token.expand(len(x), -1, -1), x], dim=1)
    for block in net.blocks[2:]:
        x = block(x)
    return net.forward_head(net.norm(x))


class TestConViT(EveryTransformer):
    def test_tokens_are_what_leaves_timms_blocks(self, name):
        images, net = pixels(name), bare(name)
        left = seen_by(net, dict(enumerate(net.blocks)), images)
        outputs = built(name).outputs(images, everything(name))
        side = CASES[name].side // 16
        for i, expected in left.items():
            p = 1 if i >= 2 else 0
            for found, x in ((outputs.tokens[i], expected), (outputs.normed_tokens[i], net.norm(expected))):
                assert found.grid == (side, side)
                assert found.prefix.shape[1] == p
                close(found.prefix, x[:, :p])
                close(found.patches, x[:, p:])

    def test_the_head_reads_the_normed_class_token(self, name):
        outputs = built(name).outputs(pixels(name), everything(name))
        token = outputs.normed_tokens[3].prefix[:, 0]
        close(outputs.pooled, token)
        close(outputs.logits["head"], bare(name).head(token))

    def test_attention_of_the_first_blocks_is_gated(self, name):
        images, net = pixels(name), bare(name)
        entering = seen_by(net, {i: block.norm1 for i, block in enumerate(net.blocks)}, images)
        outputs = built(name).outputs(images, everything(name))
        side = CASES[name].side // 16
        for i in (0, 1):
            found = outputs.attention[i]
            assert (found.kind, found.distribution) == ("global", True)
            for image, weights in enumerate(found.weights):
                close(weights, gated_by_hand(net.blocks[i].attn, entering[i][image], range(side**2), side))

    def test_attention_of_later_blocks_is_the_softmax_of_queries_and_keys(self, name):
        images, net = pixels(name), bare(name)
        entering = seen_by(net, {i: block.norm1 for i, block in enumerate(net.blocks)}, images)
        outputs = built(name).outputs(images, everything(name))
        for i in (2, 3):
            q, k, _ = (split_heads(x, 4) for x in net.blocks[i].attn.qkv(entering[i]).chunk(3, dim=-1))
            close(outputs.attention[i].weights, softmax(q @ k.transpose(-2, -1) / q.shape[-1] ** 0.5))
            assert (outputs.attention[i].kind, outputs.attention[i].distribution) == ("global", True)

    def test_patches_that_are_left_keep_their_places(self, name):
        model, net, images = built(name), bare(name), pixels(name)
        side = CASES[name].side // 16
        first, second = some_patches(3, side**2, 6), some_patches(3, 6, 3, seed=1)
        places = rows(first, second)
        x = gpsa_block(net.blocks[0], rows(embedded(net, images), first), first, side)
        x = gpsa_block(net.blocks[1], rows(x, second), places, side)
        with (
            model.intervene("block:0", keep(first), ids=ids_of(images)),
            model.intervene("block:1", keep(second), ids=ids_of(images)),
        ):
            outputs = model.outputs(images, OutputSpec(logits=True, attention=frozenset({0, 1, 2})))
        close(outputs.logits["head"], rest(net, x))
        assert [outputs.attention[i].weights.shape[-1] for i in (0, 1, 2)] == [6, 3, 4]
        close(logits(name, images), net(normalised(images)))

    def test_dropping_behind_the_gated_blocks_is_running_timm_on_fewer_tokens(self, name):
        model, net, images = built(name), bare(name), pixels(name)
        left = some_patches(3, net.num_patches, 4)
        x = net.blocks[1](net.blocks[0](embedded(net, images)))
        with model.intervene("block:2", keep(left), ids=ids_of(images)):
            close(logits(name, images), rest(net, rows(x, left)))

    def test_places_belong_to_patches_only_where_some_are_dropped(self, name):
        model, images = built(name), pixels(name)
        clean = logits(name, images)
        cells = model.net.num_patches
        order = torch.stack([torch.randperm(cells, generator=torch.Generator().manual_seed(i)) for i in range(3)])

        def shuffled(tokens):
            return replace(tokens, patches=tokens.patches.take_along_dim(order.unsqueeze(-1), dim=1))

        with model.intervene("block:0", shuffled, ids=ids_of(images)):
            assert (logits(name, images) - clean).abs().max() > 1e-3
        with model.intervene("block:0", keep(order), ids=ids_of(images)):
            close(logits(name, images), clean)

    def test_the_first_call_changes_no_buffer(self, name):
        model = build(name)
        before = dict(model.net.named_buffers())
        model.outputs(pixels(name), everything(name))
        assert before
        for key, buffer in model.net.named_buffers():
            assert buffer is before[key]


def test_position_embeddings_can_be_ablated():
    model, net, images = built("convit"), bare("convit"), pixels("convit")
    with torch.no_grad(), model.intervene("pos_embed", zeroed, ids=ids_of(images)):
        x = net.patch_embed(normalised(images))
        close(logits("convit", images), rest(net, net.blocks[1](net.blocks[0](x))))


def test_dropping_at_the_position_embeddings_is_dropping_at_the_first_block():
    model, images = built("convit"), pixels("convit")
    left = some_patches(3, 16, 5)
    with torch.no_grad(), model.intervene("block:0", keep(left), ids=ids_of(images)):
        expected = logits("convit", images)
    with torch.no_grad(), model.intervene("pos_embed", keep(left), ids=ids_of(images)):
        close(logits("convit", images), expected)


@pytest.mark.parametrize("gated", [0, 4])
def test_a_class_token_in_every_block_or_none_is_said(gated):
    case = replace(CASES["convit"], sizes={**CASES["convit"].sizes, "local_up_to_layer": gated})
    net = random_network(case)
    model = case.wrapper(net, card("convit"))
    assert (Capability.CLASS_TOKEN in model.info.capabilities) == (gated == 0)
    assert model.info.prefix == (("cls",) if gated == 0 else ())
    images = pixels("convit")
    with torch.no_grad():
        close(model.outputs(images, OutputSpec(logits=True)).logits["head"], net(normalised(images)))
