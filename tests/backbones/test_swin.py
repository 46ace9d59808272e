"""Wrapped Swin Transformers against bare timm, and their windows against a walk over places of the image."""

import itertools

import pytest
import torch
from every_transformer import EveryTransformer
from reduced import bare, built, close, everything, logits, normalised, pixels, seen_by, softmax

from harness.types import OutputSpec

NAMES = ("swin", "swin_padded")


@pytest.fixture(params=NAMES)
def name(request):
    return request.param


def blocks_of(net):
    return [block for stage in net.layers for block in stage.blocks]


def places_of(block, rows, columns):
    """For each window, the place of each of its tokens in the image, and its place and part in the rolled map.

    A token is (row, column) in the image, or None where the map is padded; parts of a rolled map that lie apart in the
    image have numbers of their own.
    """
    side, shift = block.window_size[0], block.shift_size[0]
    high, wide = -(-rows // side) * side, -(-columns // side) * side
    windows = []
    for top, left in itertools.product(range(0, high, side), range(0, wide, side)):
        window = []
        for r, c in itertools.product(range(top, top + side), range(left, left + side)):
            place = ((r + shift) % rows, (c + shift) % columns) if r < rows and c < columns else None
            part = tuple((at >= size - side) + (at >= size - shift) for at, size in ((r, high), (c, wide)))
            window.append((place, (r - top, c - left), part if shift else None))
        windows.append(window)
    return windows


def attention_by_hand(block, entering):
    """Softmax of scaled scores, the bias of relative places, and the mask, for what norm1 gives (N, H, W, C)."""
    layer, (n, rows, columns, _) = block.attn, entering.shape
    d = layer.qkv.weight.shape[0] // 3 // layer.num_heads
    found = []
    for image, window in itertools.product(range(n), places_of(block, rows, columns)):
        x = torch.stack([entering[image, *at] if at else torch.zeros_like(entering[0, 0, 0]) for at, _, _ in window])
        q, k, _ = (x @ layer.qkv.weight.T + layer.qkv.bias).reshape(len(x), 3, layer.num_heads, d).unbind(1)
        scores = torch.einsum("qhd,khd->hqk", q, k) / d**0.5
        side = block.window_size[1]
        for i, (_, (r, c), part) in enumerate(window):
            for j, (_, (r2, c2), part2) in enumerate(window):
                bias = layer.relative_position_bias_table[(r - r2 + side - 1) * (2 * side - 1) + c - c2 + side - 1]
                scores[:, i, j] += bias - (100 if part != part2 else 0)
        found.append(softmax(scores))
    return torch.stack(found)


class TestSwin(EveryTransformer):
    blocks_of = staticmethod(blocks_of)

    def test_tokens_are_the_maps_that_leave_timms_blocks(self, name):
        images, net = pixels(name), bare(name)
        maps = seen_by(net, dict(enumerate(blocks_of(net))), images)
        outputs = built(name).outputs(images, everything(name))
        for i, expected in maps.items():
            assert outputs.tokens[i].grid == tuple(expected.shape[1:3])
            assert outputs.tokens[i].prefix.shape[1] == 0
            close(outputs.tokens[i].patches, expected.flatten(1, 2))
            close(outputs.normed_tokens[i].patches, (net.norm(expected) if i >= 4 else expected).flatten(1, 2))
        sides = {"swin": (16, 16, 8, 8, 4, 4, 4), "swin_padded": (14, 14, 7, 7, 4, 4, 4)}[name]
        assert [outputs.tokens[i].grid for i in range(7)] == [(side, side) for side in sides]
        stages = net.forward_intermediates(normalised(images), intermediates_only=True)
        for last, expected in zip((1, 3, 6), stages, strict=True):
            close(outputs.tokens[last].patches, expected.flatten(2).transpose(1, 2))

    def test_the_head_reads_the_mean_of_the_normed_tokens(self, name):
        images, net = pixels(name), bare(name)
        outputs = built(name).outputs(images, everything(name))
        mean = outputs.normed_tokens[6].patches.mean(dim=1)
        close(outputs.pooled, mean)
        close(outputs.logits["head"], mean @ net.head.fc.weight.T + net.head.fc.bias)

    def test_attention_is_that_of_windows_with_bias_and_mask(self, name):
        images, net = pixels(name, 2), bare(name)
        entering = seen_by(net, {i: block.norm1 for i, block in enumerate(blocks_of(net))}, images)
        outputs = built(name).outputs(images, everything(name))
        windows = {"swin": (16, 16, 4, 4, 1, 1, 1), "swin_padded": (16, 16, 4, 4, 1, 1, 1)}[name]
        shifted = {i: block.shift_size[0] for i, block in enumerate(blocks_of(net))}
        assert shifted == {0: 0, 1: 2, 2: 0, 3: 2, 4: 0, 5: 0, 6: 0}
        for i, block in enumerate(blocks_of(net)):
            found = outputs.attention[i]
            assert (found.kind, found.distribution) == ("window", True)
            assert found.weights.shape == (2 * windows[i], block.attn.num_heads, 16, 16)
            close(found.weights, attention_by_hand(block, entering[i]))

    def test_the_fused_kernel_gives_the_same(self, name, monkeypatch):
        images = pixels(name)
        expected = bare(name)(normalised(images))
        for block in blocks_of(built(name).net):
            monkeypatch.setattr(block.attn, "fused_attn", True)
        close(logits(name, images), expected, 1e-4)

    def test_what_is_done_at_pool_is_done_to_the_normed_map(self, name):
        model, images, net, seen = built(name), pixels(name), bare(name), []
        ids = tuple(map(str, range(len(images))))
        with model.intervene("pool", lambda tokens: seen.append(tokens) or tokens, ids=ids):
            normed = model.outputs(images, OutputSpec(logits=True, normed_tokens=frozenset({6}))).normed_tokens[6]
        assert torch.equal(seen[0].patches, normed.patches)
        with model.intervene(
            "pool",
            lambda tokens: tokens.__class__(
                prefix=tokens.prefix, patches=tokens.patches * 0, grid=tokens.grid, ids=tokens.ids
            ),
            ids=ids,
        ):
            close(logits(name, images), net.head.fc.bias.expand(len(images), -1))
