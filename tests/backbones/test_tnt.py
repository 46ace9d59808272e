"""Wrapped TNTs against bare timm, and dropped patches against timm's blocks on fewer tokens of both streams."""

from dataclasses import replace

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


@pytest.fixture(params=("tnt", "tnt_legacy"))
def name(request):
    return request.param


def embedded(net, images):
    """timm's pixel tokens by image (N, K, pixels, d), patches without and with the position embeddings."""
    n = len(images)
    inner = net.pixel_embed(normalised(images), net.pixel_pos)
    patches = net.norm2_proj(net.proj(net.norm1_proj(inner.reshape(n, net.num_patches, -1))))
    outer = torch.cat([net.cls_token.expand(n, -1, -1), patches], dim=1)
    return inner.reshape(n, net.num_patches, *inner.shape[1:]), outer, outer + net.patch_pos


def run_on(net, inner, outer):
    """The rest of timm's forward for pixel tokens by image and outer tokens."""
    inner = inner.flatten(0, 1)
    for block in net.blocks:
        inner, outer = block(inner, outer)
    return net.head(net.norm(outer)[:, 0])


def of_images(x, indices):
    return torch.stack([image[places] for image, places in zip(x, indices, strict=True)])


class TestTNT(EveryTransformer):
    attention_layer = staticmethod(lambda block: block.attn_out)

    def test_tokens_are_timms_intermediates(self, name):
        images, net = pixels(name), bare(name)
        outputs = built(name).outputs(images, everything(name))
        for norm, found in ((False, outputs.tokens), (True, outputs.normed_tokens)):
            expected = net.forward_intermediates(
                normalised(images), norm=norm, return_prefix_tokens=True, intermediates_only=True
            )
            for i, (patches, prefix) in enumerate(expected):
                close(found[i].prefix, prefix)
                close(found[i].patches, patches.flatten(2).transpose(1, 2))
                assert found[i].grid == tuple(patches.shape[2:])

    def test_the_head_reads_the_normed_class_token(self, name):
        outputs = built(name).outputs(pixels(name), everything(name))
        token = outputs.normed_tokens[2].prefix[:, 0]
        close(outputs.pooled, token)
        close(outputs.logits["head"], bare(name).head(token))

    def test_attention_is_that_of_the_outer_stream(self, name):
        images, net = pixels(name), bare(name)
        entering = seen_by(net, {i: block.norm_out for i, block in enumerate(net.blocks)}, images)
        outputs = built(name).outputs(images, everything(name))
        for i, block in enumerate(net.blocks):
            layer = block.attn_out
            q, k = (split_heads(part, layer.num_heads) for part in (entering[i] @ layer.qk.weight.T).chunk(2, dim=-1))
            close(outputs.attention[i].weights, softmax(q @ k.transpose(-2, -1) / q.shape[-1] ** 0.5))
            assert (outputs.attention[i].kind, outputs.attention[i].distribution) == ("global", True)

    def test_a_dropped_patch_takes_its_pixel_tokens_along(self, name):
        model, net, images = built(name), bare(name), pixels(name)
        inner, _, outer = embedded(net, images)
        left = some_patches(3, net.num_patches, 4)
        fewer = torch.cat([outer[:, :1], rows(outer[:, 1:], left)], dim=1)
        expected = run_on(net, of_images(inner, left), fewer)
        for site in ("block:0", "pos_embed"):
            with model.intervene(site, keep(left), ids=ids_of(images)):
                close(logits(name, images), expected)

    def test_dropping_in_the_middle_and_again(self, name):
        model, net, images = built(name), bare(name), pixels(name)
        first, second = some_patches(3, net.num_patches, 6), some_patches(3, 6, 2, seed=1)
        inner, _, outer = embedded(net, images)
        for i, block in enumerate(net.blocks):
            if i:
                left = first if i == 1 else second
                outer = torch.cat([outer[:, :1], rows(outer[:, 1:], left)], dim=1)
                inner = of_images(inner, left)
            pixel_tokens, outer = block(inner.flatten(0, 1), outer)
            inner = pixel_tokens.reshape(inner.shape)
        with (
            model.intervene("block:1", keep(first), ids=ids_of(images)),
            model.intervene("block:2", keep(second), ids=ids_of(images)),
        ):
            outputs = model.outputs(images, OutputSpec(logits=True, tokens=frozenset({0, 1, 2})))
        close(outputs.logits["head"], net.head(net.norm(outer)[:, 0]))
        assert [outputs.tokens[i].grid[1] for i in (1, 2)] == [6, 2]

    def test_outer_position_embeddings_can_be_ablated(self, name):
        model, net, images, seen = built(name), bare(name), pixels(name), []
        with model.intervene("pos_embed", lambda tokens: seen.append(tokens) or zeroed(tokens), ids=ids_of(images)):
            ablated = logits(name, images)
        inner, without, _ = embedded(net, images)
        close(ablated, run_on(net, inner, without))
        assert torch.equal(torch.cat([seen[0].prefix, seen[0].patches], dim=1)[1], net.patch_pos[0])

    def test_changing_outer_tokens_leaves_the_inner_stream_as_it_is(self, name):
        model, net, images = built(name), bare(name), pixels(name)
        inner, _, outer = embedded(net, images)
        with model.intervene(
            "block:0", lambda tokens: replace(tokens, patches=tokens.patches.flip(1)), ids=ids_of(images)
        ):
            found = logits(name, images)
        close(found, run_on(net, inner, torch.cat([outer[:, :1], outer[:, 1:].flip(1)], dim=1)))
