"""Wrapped XCiTs against bare timm: maps of channels, then class blocks whose attention is held against its formula."""

import pytest
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

from harness.errors import CapabilityError
from harness.types import OutputSpec


@pytest.fixture(params=("xcit", "xcit_p8_no_positions"))
def name(request):
    return request.param


def blocks_of(net):
    return [*net.blocks, *net.cls_attn_blocks]


class TestXCiT(EveryTransformer):
    blocks_of = staticmethod(blocks_of)

    def test_tokens_are_what_leaves_timms_blocks(self, name):
        images, net = pixels(name), bare(name)
        left = seen_by(net, dict(enumerate(blocks_of(net))), images)
        outputs = built(name).outputs(images, everything(name))
        for i, expected in left.items():
            p = 1 if i >= 2 else 0
            for found, x in ((outputs.tokens[i], expected), (outputs.normed_tokens[i], net.norm(expected))):
                assert found.grid == (4, 4)
                assert found.prefix.shape[1] == p
                close(found.prefix, x[:, :p])
                close(found.patches, x[:, p:])
        maps = net.forward_intermediates(normalised(images), norm=True, intermediates_only=True)
        for i, expected in enumerate(maps):
            close(outputs.normed_tokens[i].patches, expected.flatten(2).transpose(1, 2))

    def test_the_head_reads_the_normed_class_token(self, name):
        outputs = built(name).outputs(pixels(name), everything(name))
        token = outputs.normed_tokens[3].prefix[:, 0]
        close(outputs.pooled, token)
        close(outputs.logits["head"], bare(name).head(token))

    def test_attention_is_that_of_the_class_blocks(self, name):
        images, net = pixels(name), bare(name)
        entering = seen_by(net, {i: block.norm1 for i, block in enumerate(blocks_of(net))}, images)
        outputs = built(name).outputs(images, everything(name))
        assert set(outputs.attention) == {2, 3}
        for i, found in outputs.attention.items():
            layer = blocks_of(net)[i].attn
            q, k = split_heads(layer.q(entering[i][:, :1]), 4), split_heads(layer.k(entering[i]), 4)
            assert (found.kind, found.distribution) == ("class", True)
            assert found.weights.shape == (3, 4, 1, 17)
            close(found.weights, softmax(q @ k.transpose(-2, -1) / q.shape[-1] ** 0.5))

    def test_blocks_that_attend_over_channels_give_no_attention(self, name):
        for i in (0, 1):
            with pytest.raises(CapabilityError, match=f"block {i} .* has no attention"):
                built(name).outputs(pixels(name), OutputSpec(attention=frozenset({i})))


def test_position_embeddings_can_be_ablated():
    model, images, seen = built("xcit"), pixels("xcit"), []
    net = random_network(CASES["xcit"]).requires_grad_(False)
    with model.intervene("pos_embed", lambda tokens: seen.append(tokens) or zeroed(tokens), ids=ids_of(images)):
        ablated = logits("xcit", images)
    close(seen[0].patches, net.pos_embed(3, 4, 4).flatten(2).transpose(1, 2))
    net.pos_embed = None
    close(ablated, net(normalised(images)))
