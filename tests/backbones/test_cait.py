"""Wrapped CaiTs against bare timm, talking heads against their formula, and dropped patches against fewer tokens."""

import pytest
import torch
from every_transformer import EveryTransformer
from reduced import (
    bare,
    built,
    close,
    everything,
    ids_of,
    keep,
    logits,
    normalised,
    pixels,
    rows,
    seen_by,
    softmax,
    some_patches,
    split_heads,
    zeroed,
)

from harness.types import OutputSpec


@pytest.fixture(params=("cait", "cait_average"))
def name(request):
    return request.param


def blocks_of(net):
    return [*net.blocks, *net.blocks_token_only]


def mixed(by_head, mixing):
    """Heads (N, heads, ...) weighed by a linear layer, one at a time."""
    return torch.stack(
        [
            sum(weight * by_head[:, h] for h, weight in enumerate(row)) + bias
            for row, bias in zip(mixing.weight, mixing.bias, strict=True)
        ],
        dim=1,
    )


class TestCaiT(EveryTransformer):
    blocks_of = staticmethod(blocks_of)

    def test_tokens_are_what_leaves_timms_blocks(self, name):
        images, net = pixels(name), bare(name)
        left = seen_by(net, dict(enumerate(blocks_of(net))), images)
        outputs = built(name).outputs(images, everything(name))
        side = built(name).info.input_size // 16
        for i in range(5):
            for found, norm in ((outputs.tokens[i], lambda x: x), (outputs.normed_tokens[i], net.norm)):
                assert found.grid == (side, side)
                close(found.patches, norm(left[min(i, 2)]))
                if i < 3:
                    assert found.prefix.shape == (3, 0, 32)
                else:
                    close(found.prefix, norm(left[i]))

    def test_the_head_reads_the_normed_tokens(self, name):
        outputs = built(name).outputs(pixels(name), everything(name))
        last = outputs.normed_tokens[4]
        pooled = last.patches.mean(dim=1) if name == "cait_average" else last.prefix[:, 0]
        close(outputs.pooled, pooled)
        close(outputs.logits["head"], bare(name).head(pooled))

    def test_attention_among_patches_is_mixed_ahead_of_and_behind_the_softmax(self, name):
        images, net = pixels(name), bare(name)
        entering = seen_by(net, {i: block.norm1 for i, block in enumerate(net.blocks)}, images)
        gathered = seen_by(net, {i: block.attn for i, block in enumerate(net.blocks)}, images)
        outputs = built(name).outputs(images, everything(name))
        for i, block in enumerate(net.blocks):
            layer = block.attn
            q, k, v = (split_heads(part, 4) for part in layer.qkv(entering[i]).chunk(3, dim=-1))
            scores = mixed(q @ k.transpose(-2, -1) / q.shape[-1] ** 0.5, layer.proj_l)
            expected = mixed(softmax(scores), layer.proj_w)
            found = outputs.attention[i]
            assert (found.kind, found.distribution) == ("global", False)
            close(found.weights, expected)
            assert (found.weights.sum(dim=-1) - 1).abs().max() > 0.1
            # They are what multiplies the values.
            close(layer.proj((found.weights @ v).transpose(1, 2).flatten(2)), gathered[i], 1e-4)

    def test_attention_of_class_blocks_is_the_class_tokens(self, name):
        images, net = pixels(name), bare(name)
        entering = seen_by(net, {i: block.norm1 for i, block in enumerate(blocks_of(net))}, images)
        outputs = built(name).outputs(images, everything(name))
        for i in (3, 4):
            layer = blocks_of(net)[i].attn
            q, k = split_heads(layer.q(entering[i][:, :1]), 4), split_heads(layer.k(entering[i]), 4)
            found = outputs.attention[i]
            assert (found.kind, found.distribution) == ("class", True)
            assert found.weights.shape == (3, 4, 1, 1 + net.patch_embed.num_patches)
            close(found.weights, softmax(q @ k.transpose(-2, -1) / q.shape[-1] ** 0.5))

    def test_dropping_patches_is_running_timm_on_fewer_tokens(self, name):
        model, net, images = built(name), bare(name), pixels(name)
        cells = net.patch_embed.num_patches
        left = some_patches(3, cells, cells // 3)
        x = net.patch_embed(normalised(images)) + net.pos_embed
        early = net.forward_head(net.norm(net.forward_cls(net.blocks(rows(x, left)))))
        for site in ("block:0", "pos_embed"):
            with model.intervene(site, keep(left), ids=ids_of(images)):
                close(logits(name, images), early)
        late = net.forward_head(net.norm(net.forward_cls(rows(net.blocks(x), left))))
        with model.intervene("block:3", keep(left), ids=ids_of(images)):
            outputs = model.outputs(images, OutputSpec(logits=True, attention=frozenset({2, 4})))
        close(outputs.logits["head"], late)
        assert [outputs.attention[i].weights.shape[2:] for i in (2, 4)] == [(cells, cells), (1, 1 + cells // 3)]

    def test_position_embeddings_can_be_ablated(self, name):
        model, net, images = built(name), bare(name), pixels(name)
        with model.intervene("pos_embed", zeroed, ids=ids_of(images)):
            ablated = logits(name, images)
        x = net.patch_embed(normalised(images))
        close(ablated, net.forward_head(net.norm(net.forward_cls(net.blocks(x)))))
