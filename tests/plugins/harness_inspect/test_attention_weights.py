"""Whose rows and which keys: built weights whose every number says its place, and networks of several families."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import timm
import torch

from harness.backbones.cait import CaiTModel
from harness.backbones.convit import ConViTModel
from harness.backbones.pit import PiTModel
from harness.backbones.swin import SwinModel
from harness.backbones.xcit import XCiTModel
from harness.errors import CapabilityError
from harness.protocols import ProbeContext
from harness.testing.sample import tiny_model
from harness.types import BlockAttention, Capability, ModelInfo, View, WeightsInfo
from harness_inspect.attention_weights import (
    asking_token,
    attention_blocks,
    attention_layouts,
    patch_grid,
    patches_to_patches,
    require_attention,
    token_asks,
    token_rows,
    token_to_patches,
)

GRID = 3


def card(*, prefix=("cls",), blocks=4, patch_size=16, attention=None, capable=True, side=48) -> ModelInfo:
    return ModelInfo(
        name="imagined",
        family="test",
        weights=WeightsInfo(origin="random", identity="random:imagined:0"),
        view=View(crop=side),
        mean=(0.5, 0.5, 0.5),
        std=(0.5, 0.5, 0.5),
        label_space=None,
        num_classes=None,
        num_blocks=blocks,
        embed_dim=8,
        patch_size=patch_size,
        prefix=prefix,
        attention_blocks=attention,
        capabilities=frozenset({Capability.ATTENTION} if capable else ()),
    )


def telling(prefix: int, *, queries: int | None = None, heads: int = 2, kind="global") -> BlockAttention:
    """Weights whose digits are image, head, query and key: 2 of 0123 is image 2, head 0, query 1, key 23."""
    keys = prefix + GRID**2
    n, h, q, k = (torch.arange(size) for size in (2, heads, queries or keys, keys))
    weights = (
        n[:, None, None, None] * 1e5 + h[:, None, None] * 1e4 + q[:, None] * 1e2 + k
    )  # kept apart: two digits each for queries and keys
    return BlockAttention(weights=weights.double(), kind=kind)


def context(model) -> ProbeContext:
    return ProbeContext(model=model.info, classes=("a", "b"), label_space=None, seed=0, network=model)


def reduced(wrapper, arch: str, side: int, **sizes):
    """A small network of one of timm's families, as a Model."""
    net = timm.create_model(arch, pretrained=False, img_size=side, num_classes=5, **sizes).eval()
    return wrapper(net, card(blocks=1, side=side, capable=False))


class TestBlocks:
    def test_all_that_have_attention_or_those_named(self):
        assert attention_blocks(card()) == (0, 1, 2, 3)
        assert attention_blocks(card(attention=(3, 2))) == (2, 3)
        assert attention_blocks(card(capable=False)) == ()
        assert require_attention(card(attention=(2, 3))) == (2, 3)
        assert require_attention(card(), (-1, 0, 3)) == (0, 3)

    @pytest.mark.parametrize("block", [1, -4, 4, -5])
    def test_a_block_without_is_refused(self, block):
        with pytest.raises(CapabilityError, match="gives no attention of block"):
            require_attention(card(attention=(2, 3)), (block,))

    def test_a_model_without_is_refused(self):
        with pytest.raises(CapabilityError, match="gives no attention"):
            require_attention(card(capable=False))


class TestPlaces:
    def test_the_last_keys_are_the_patches(self):
        for prefix in ((), ("cls",), ("cls", "dist")):
            assert patch_grid(telling(len(prefix)), card(prefix=prefix)) == (GRID, GRID)
        assert patch_grid(telling(0), card()) == (GRID, GRID)  # ahead of the class token's block
        assert patch_grid(telling(1, queries=1, kind="class"), card()) == (GRID, GRID)
        assert patch_grid(telling(0, queries=7, kind="class"), card(prefix=())) == (GRID, GRID)
        assert patch_grid(telling(1), card(patch_size=None, side=50)) == (GRID, GRID)

    def test_dropped_patches_are_no_grid_even_if_their_number_is_a_square(self):
        with pytest.raises(CapabilityError, match="dropped"):
            patch_grid(BlockAttention(weights=torch.ones(1, 1, 6, 6), kind="global"), card())
        with pytest.raises(CapabilityError, match="dropped"):
            patch_grid(BlockAttention(weights=torch.ones(1, 1, 5, 5), kind="global"), card())

    def test_windows_are_refused(self):
        with pytest.raises(CapabilityError, match="windows"):
            patch_grid(BlockAttention(weights=torch.ones(4, 1, 9, 9), kind="window"), card(prefix=()))

    def test_rows_of_a_token(self):
        info = card(prefix=("cls", "dist"))
        found = token_to_patches(telling(2), info, "dist")
        assert found.shape == (2, 2, 9)
        assert found[1, 0].tolist() == [1e5 + 1e2 + key for key in range(2, 11)]
        whole = token_rows(telling(2), info, "dist")
        assert whole[0, 1].tolist() == [1e4 + 1e2 + key for key in range(11)]

    def test_the_mean_is_over_the_patches_that_ask(self):
        info = card(prefix=("cls", "dist"))
        found = token_rows(telling(2), info, "mean")
        by_hand = [sum(1e2 * query + key for query in range(2, 11)) / 9 for key in range(11)]
        assert found[0, 0].tolist() == pytest.approx(by_hand)

    def test_patches_among_themselves(self):
        found = patches_to_patches(telling(1), card())
        assert found.shape == (2, 2, 9, 9)
        assert found[0, 0, 0].tolist() == [1e2 + key for key in range(1, 10)]
        with pytest.raises(CapabilityError, match="class tokens alone"):
            patches_to_patches(telling(1, queries=1, kind="class"), card())

    def test_a_class_block_has_its_own_token(self):
        found = token_to_patches(telling(1, queries=1, kind="class"), card(), "cls")
        assert found[0, 0].tolist() == list(range(1, 10))

    def test_a_token_that_is_not_there_is_refused(self):
        with pytest.raises(CapabilityError, match="no token named 'dist'"):
            token_to_patches(telling(1), card(), "dist")
        with pytest.raises(CapabilityError, match="among patches alone"):
            token_to_patches(telling(0), card(), "cls")
        with pytest.raises(CapabilityError, match="among patches alone"):
            token_rows(telling(0), card(), "cls")


class TestTokens:
    def test_what_auto_stands_for(self):
        assert asking_token(card(prefix=("cls", "dist")), "auto") == "cls"
        assert asking_token(card(prefix=("register0",)), "auto") == "mean"
        assert asking_token(card(prefix=()), "auto") == "mean"
        assert asking_token(card(prefix=("cls", "dist")), "dist") == "dist"
        assert asking_token(card(), "mean") == "mean"

    def test_an_unknown_token_is_refused_with_those_there_are(self):
        with pytest.raises(CapabilityError, match="no token named 'dist'") as error:
            asking_token(card(), "dist")
        assert "cls" in error.value.hint
        with pytest.raises(CapabilityError) as error:
            asking_token(card(prefix=()), "cls")
        assert "token=mean" in error.value.hint


class TestLayouts:
    def test_of_a_plain_transformer(self):
        model = tiny_model()
        layouts = attention_layouts(context(model), (0, 1), "test")
        assert list(layouts) == [0, 1]
        layout = layouts[1]
        assert (layout.kind, layout.distribution, layout.heads) == ("global", True, 2)
        assert (layout.queries, layout.keys, layout.grid, layout.prefix) == (17, 17, (4, 4), 1)
        assert token_asks(layout, model.info, "cls")
        assert token_asks(layout, model.info, "mean")

    def test_of_blocks_of_patches_and_of_class_blocks(self):
        model = reduced(CaiTModel, "cait_xxs24_224", 48, embed_dim=16, depth=2, num_heads=2, depth_token_only=1)
        layouts = attention_layouts(context(model), (0, 1, 2), "test")
        assert [layout.kind for layout in layouts.values()] == ["global", "global", "class"]
        assert [layout.distribution for layout in layouts.values()] == [False, False, True]
        assert [layout.prefix for layout in layouts.values()] == [0, 0, 1]
        assert [token_asks(layout, model.info, "cls") for layout in layouts.values()] == [False, False, True]
        assert [token_asks(layout, model.info, "mean") for layout in layouts.values()] == [True, True, False]

    def test_where_the_class_token_comes_in_later(self):
        model = reduced(ConViTModel, "convit_tiny", 48, embed_dim=4, num_heads=2, depth=3, local_up_to_layer=2)
        layouts = attention_layouts(context(model), (0, 1, 2), "test")
        assert [layout.keys for layout in layouts.values()] == [9, 9, 10]
        assert {layout.grid for layout in layouts.values()} == {(3, 3)}
        assert [token_asks(layout, model.info, "cls") for layout in layouts.values()] == [False, False, True]

    def test_where_patches_are_pooled_between_stages(self):
        model = reduced(PiTModel, "pit_ti_distilled_224", 64, base_dims=(8, 8, 8), depth=(1, 1, 1), heads=(1, 2, 4))
        layouts = attention_layouts(context(model), (0, 1, 2), "test")
        assert [layout.grid for layout in layouts.values()] == [(7, 7), (4, 4), (2, 2)]
        assert {layout.prefix for layout in layouts.values()} == {2}
        assert [layout.heads for layout in layouts.values()] == [1, 2, 4]

    def test_of_class_blocks_alone(self):
        model = reduced(XCiTModel, "xcit_nano_12_p16_224", 48, embed_dim=16, depth=1, num_heads=2)
        blocks = attention_blocks(model.info)
        assert blocks == (1, 2)
        assert {layout.kind for layout in attention_layouts(context(model), blocks, "test").values()} == {"class"}

    def test_windows_are_refused(self):
        sizes = {"embed_dim": 8, "depths": (1, 1), "num_heads": (1, 2), "window_size": 4}
        model = reduced(SwinModel, "swin_tiny_patch4_window7_224", 32, **sizes)
        with pytest.raises(CapabilityError, match="windows"):
            attention_layouts(context(model), (0, 1), "test")

    def test_a_card_alone_is_refused(self):
        alone = SimpleNamespace(model=card(), network=None, device=None)
        with pytest.raises(CapabilityError, match="card alone"):
            attention_layouts(alone, (0,), "test")
