"""Wrapped PiTs, plain and distilled, against bare timm: tokens of three stages, and the heads of distilled networks."""

from dataclasses import replace

import pytest
import torch
from every_transformer import EveryTransformer
from reduced import (
    CASES,
    bare,
    built,
    close,
    everything,
    ids_of,
    logits,
    normalised,
    pixels,
    random_network,
    seen_by,
    softmax,
    split_heads,
    zeroed,
)


@pytest.fixture(params=("pit", "pit_distilled"))
def name(request):
    return request.param


def blocks_of(net):
    return [block for stage in net.transformers for block in stage.blocks]


class TestPiT(EveryTransformer):
    blocks_of = staticmethod(blocks_of)

    def test_tokens_are_what_leaves_timms_blocks(self, name):
        images, net = pixels(name), bare(name)
        left = seen_by(net, dict(enumerate(blocks_of(net))), images)
        outputs = built(name).outputs(images, everything(name))
        p = 2 if name == "pit_distilled" else 1
        sides = (6, 3, 3, 2, 2) if name == "pit_distilled" else (7, 4, 4, 2, 2)
        for i, expected in left.items():
            normed = net.norm(expected) if i >= 3 else expected
            for found, x in ((outputs.tokens[i], expected), (outputs.normed_tokens[i], normed)):
                assert found.grid == (sides[i], sides[i])
                assert found.patches.shape[2] == (16, 32, 32, 64, 64)[i]
                close(found.prefix, x[:, :p])
                close(found.patches, x[:, p:])
        stages = net.forward_intermediates(normalised(images), intermediates_only=True)
        for last, expected in zip((0, 2, 4), stages, strict=True):
            close(outputs.tokens[last].patches, expected.flatten(2).transpose(1, 2))

    def test_the_head_reads_the_normed_class_token(self, name):
        outputs = built(name).outputs(pixels(name), everything(name))
        token = outputs.normed_tokens[4].prefix[:, 0]
        close(outputs.pooled, token)
        close(outputs.logits["cls" if name == "pit_distilled" else "head"], bare(name).head(token))

    def test_attention_is_the_softmax_of_queries_and_keys(self, name):
        images, net = pixels(name), bare(name)
        entering = seen_by(net, {i: block.norm1 for i, block in enumerate(blocks_of(net))}, images)
        outputs = built(name).outputs(images, everything(name))
        for i, block in enumerate(blocks_of(net)):
            q, k, _ = (split_heads(x, block.attn.num_heads) for x in block.attn.qkv(entering[i]).chunk(3, dim=-1))
            close(outputs.attention[i].weights, softmax(q @ k.transpose(-2, -1) / q.shape[-1] ** 0.5))
            assert (outputs.attention[i].kind, outputs.attention[i].distribution) == ("global", True)

    def test_position_embeddings_can_be_ablated(self, name):
        model, net, images, seen = built(name), random_network(CASES[name]), pixels(name), []
        with model.intervene("pos_embed", lambda tokens: seen.append(tokens) or zeroed(tokens), ids=ids_of(images)):
            ablated = logits(name, images)
        close(seen[0].patches[2], net.pos_embed[0].flatten(1).T)
        assert seen[0].prefix.shape == (3, 2 if name == "pit_distilled" else 1, 16)
        assert not seen[0].prefix.any()
        net.pos_embed.zero_()
        close(ablated, net(normalised(images)))

    def test_a_site_at_the_start_of_a_stage_sees_pooled_patches(self, name):
        model, net, images = built(name), bare(name), pixels(name)
        # timm's own forward from the second stage on, with patches upside down behind its pooling.
        x = net.patch_embed(normalised(images)) + net.pos_embed
        x, tokens = net.transformers[0]((x, net.cls_token.expand(3, -1, -1)))
        second, third = net.transformers[1:]
        x, tokens = second.pool(x, tokens)
        sequence = second.blocks(torch.cat([tokens, x.flatten(2).flip(2).transpose(1, 2)], dim=1))
        p = tokens.shape[1]
        _, tokens = third((sequence[:, p:].transpose(1, 2).reshape(x.shape), sequence[:, :p]))
        with model.intervene("block:1", lambda t: replace(t, patches=t.patches.flip(1)), ids=ids_of(images)):
            close(logits(name, images), net.forward_head(net.norm(tokens)))


def test_distilled_heads_are_each_alone_and_their_average():
    images, net = pixels("pit_distilled"), bare("pit_distilled")
    tokens = net.forward_features(normalised(images))
    outputs = built("pit_distilled").outputs(images, everything("pit_distilled"))
    assert list(outputs.logits) == ["average", "cls", "dist"]
    close(outputs.logits["cls"], net.head(tokens[:, 0]))
    close(outputs.logits["dist"], net.head_dist(tokens[:, 1]))
    close(outputs.logits["average"], net(normalised(images)))
    assert (outputs.logits["cls"] - outputs.logits["dist"]).abs().max() > 0.1
