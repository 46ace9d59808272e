"""Tests that hold for a wrapped network of every transformer family; a family's test module inherits them."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from reduced import (
    CASES,
    CLASSES,
    bare,
    built,
    card,
    close,
    everything,
    ids_of,
    keep,
    logits,
    normalised,
    pixels,
    pooled,
    random_network,
    some_patches,
    subject,
    zeroed,
)

from harness.errors import CapabilityError
from harness.protocols import Model, SupportsIntervention
from harness.testing import run_checks
from harness.types import Capability, OutputSpec


class EveryTransformer:
    """Tests that hold for each family; a subclass gives the fixture ``name``, one of :data:`CASES`, and these two."""

    @staticmethod
    def blocks_of(net):
        """timm's modules of the blocks, in order of depth."""
        return list(net.blocks)

    @staticmethod
    def attention_layer(block):
        """timm's module that forms the attention of a block."""
        return block.attn

    @pytest.fixture(autouse=True)
    def _no_gradients(self):
        with torch.no_grad():
            yield

    def test_keeps_the_whole_contract(self, name):
        with torch.enable_grad():
            outcomes = run_checks(subject(name))
        failures = [o.message for o in outcomes if o.status == "failed"]
        assert not failures, failures
        assert {o.check for o in outcomes if o.status == "skipped"} == {"descriptor_is_light"}

    def test_the_card_says_what_the_network_is(self, name):
        case, model = CASES[name], built(name)
        assert isinstance(model, Model)
        assert isinstance(model, SupportsIntervention)
        info = model.info
        assert (info.num_blocks, info.embed_dim, info.pooled_dim) == (case.blocks, case.width, case.width)
        assert (info.prefix, info.heads, info.num_classes) == (case.prefix, case.heads, CLASSES)
        assert (info.patch_size, info.attention_blocks) == (case.patch_size, case.attention_blocks)
        assert info.capabilities == case.capabilities

    def test_a_network_without_a_classifier_gives_no_logits(self, name):
        net, images = random_network(CASES[name]), pixels(name)
        net.reset_classifier(0)
        headless = CASES[name].wrapper(net, card(name))
        assert headless.info.capabilities == CASES[name].capabilities - {Capability.LOGITS}
        assert (headless.info.num_classes, headless.info.label_space, headless.info.heads) == (None, None, ())
        assert torch.equal(headless.outputs(images, OutputSpec(pooled=True)).pooled, pooled(name, images))

    def test_a_network_that_does_not_pool_gives_tokens_alone(self, name):
        net, images, last = random_network(CASES[name]), pixels(name), frozenset({CASES[name].blocks - 1})
        if "dist" in CASES[name].prefix:
            with pytest.raises(AssertionError):  # timm has no such network
                net.reset_classifier(CLASSES, "")
            return
        net.reset_classifier(CLASSES, "")
        model = CASES[name].wrapper(net, card(name))
        assert model.info.capabilities == CASES[name].capabilities - {Capability.LOGITS, Capability.POOLED}
        assert (model.info.pooled_dim, model.info.heads) == (None, ())
        (found,) = model.outputs(images, OutputSpec(normed_tokens=last)).normed_tokens.values()
        (expected,) = built(name).outputs(images, OutputSpec(normed_tokens=last)).normed_tokens.values()
        assert torch.equal(found.patches, expected.patches)

    def test_logits_are_timms(self, name):
        images = pixels(name)
        expected = bare(name)(normalised(images))
        assert expected.std(dim=0).min() > 1e-2, "every image gives the same logits, so the test shows nothing"
        close(logits(name, images), expected)

    def test_pooled_is_timms_pre_logits(self, name):
        images, net = pixels(name), bare(name)
        features = net.forward_features(normalised(images))
        # Of distilled networks timm averages the two tokens.
        single = CASES[name].heads == ("head",)
        close(pooled(name, images), net.forward_head(features, pre_logits=True) if single else features[:, 0])

    def test_parts_of_one_call_are_those_of_separate_calls(self, name):
        model, images, case = built(name), pixels(name), CASES[name]
        # Attention apart: where it is asked, a fused kernel gives way to one that sums in another order.
        want = replace(everything(name), attention=frozenset())
        whole = model.outputs(images, want)
        for block in range(case.blocks):
            one = frozenset({block})
            tokens = model.outputs(images, OutputSpec(tokens=one))
            assert (tokens.logits, tokens.pooled, tokens.normed_tokens, tokens.attention) == ({}, None, {}, {})
            normed = model.outputs(images, OutputSpec(normed_tokens=one)).normed_tokens[block]
            for found, expected in (
                (tokens.tokens[block], whole.tokens[block]),
                (normed, whole.normed_tokens[block]),
            ):
                assert torch.equal(found.patches, expected.patches)
                assert torch.equal(found.prefix, expected.prefix)
                assert found.grid == expected.grid
        assert torch.equal(whole.pooled, pooled(name, images))
        for head, found in model.outputs(images, OutputSpec(logits=True)).logits.items():
            assert torch.equal(whole.logits[head], found)

    def test_no_block_too_many_and_each_once(self, name):
        model, calls = built(name), []
        blocks = enumerate(self.blocks_of(model.net))
        hooks = [block.register_forward_hook(lambda *_, i=i: calls.append(i)) for i, block in blocks]
        model.outputs(pixels(name), everything(name))
        assert calls == list(range(CASES[name].blocks))
        calls.clear()
        model.outputs(pixels(name), OutputSpec(tokens=frozenset({0}), normed_tokens=frozenset({1})))
        assert calls == [0, 1]
        for hook in hooks:
            hook.remove()

    def test_only_the_blocks_asked_for_leave_the_fused_kernel_and_only_then(self, name, monkeypatch):
        model, images, seen = built(name), pixels(name), {}
        given = sorted(everything(name).attention)
        layers = {i: self.attention_layer(self.blocks_of(model.net)[i]) for i in given}
        # timm leaves windowed attention unfused unless told otherwise, and has no fused kernel for some layers.
        fusable = {i: layer for i, layer in layers.items() if hasattr(layer, "fused_attn")}
        for layer in fusable.values():
            monkeypatch.setattr(layer, "fused_attn", True)
        fused = logits(name, images)
        hooks = [
            layer.register_forward_pre_hook(lambda layer, _, i=i: seen.__setitem__(i, layer.fused_attn))
            for i, layer in fusable.items()
        ]
        asked = frozenset({given[0], given[-1]})
        outputs = model.outputs(images, OutputSpec(logits=True, attention=asked))
        for hook in hooks:
            hook.remove()
        assert set(outputs.attention) == asked
        assert seen == {i: i not in asked for i in fusable}
        assert all(layer.fused_attn for layer in fusable.values())
        assert not any(layer.attn_drop._forward_pre_hooks for layer in layers.values())
        # The two kernels sum in different orders.
        close(outputs.logits[CASES[name].heads[0]], fused, 2e-4)
        monkeypatch.setattr(layers[given[-1]], "forward", lambda *_, **__: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            model.outputs(images, OutputSpec(logits=True, attention=asked))
        assert all(layer.fused_attn for layer in fusable.values())
        assert not any(layer.attn_drop._forward_pre_hooks for layer in layers.values())

    def test_gradients_are_timms_and_reach_no_parameter(self, name):
        with torch.enable_grad():
            ours, theirs = (pixels(name).requires_grad_() for _ in range(2))
            logits(name, ours)[:, 3].sum().backward()
            bare(name)(normalised(theirs))[:, 3].sum().backward()
        close(ours.grad, theirs.grad, 1e-4)
        assert all(p.grad is None and not p.requires_grad for p in built(name).net.parameters())

    def test_logits_stay_float32_under_autocast(self, name):
        with torch.autocast("cpu", dtype=torch.bfloat16):
            found = logits(name, pixels(name))
        assert found.dtype == torch.float32
        exact = logits(name, pixels(name))
        assert not torch.equal(found, exact)
        close(found, exact, 0.2)

    def test_changing_nothing_changes_nothing(self, name):
        model, images, case = built(name), pixels(name), CASES[name]
        clean, seen = logits(name, images), {}
        for site in case.sites:
            with model.intervene(site, lambda tokens, site=site: seen.setdefault(site, tokens), ids=ids_of(images)):
                close(logits(name, images), clean)
        assert list(seen) == case.sites
        left = model.outputs(images, everything(name)).tokens
        for site, tokens in seen.items():
            assert (tokens.ids, tokens.kept) == (ids_of(images), None)
            assert tokens.patches.shape[1] == tokens.grid[0] * tokens.grid[1]
            if site.startswith("block:"):
                block = left[int(site.removeprefix("block:"))]
                assert tokens.grid == block.grid
                assert tokens.patches.shape == block.patches.shape
                assert tokens.prefix.shape == block.prefix.shape

    def test_zeros_at_a_site_are_zeros_there(self, name):
        model, images, case = built(name), pixels(name), CASES[name]
        clean = logits(name, images)
        for site in case.sites:
            with model.intervene(site, zeroed, ids=ids_of(images)):
                assert (logits(name, images) - clean).abs().max() > 1e-3, site
        assert torch.equal(logits(name, images), clean)

    def test_patches_are_dropped_where_the_network_can_do_without_its_grid(self, name):
        model, images, case = built(name), pixels(name), CASES[name]
        for site in case.sites:
            seen = []
            with model.intervene(site, lambda tokens, seen=seen: seen.append(tokens) or tokens, ids=ids_of(images)):
                logits(name, images)
            cells = seen[0].patches.shape[1]
            left = some_patches(len(images), cells, max(cells // 2, 1))
            with model.intervene(site, keep(left), ids=ids_of(images)):
                if not case.droppable:
                    with pytest.raises(CapabilityError, match=f"needs every patch at {site}"):
                        logits(name, images)
                    continue
                last = model.outputs(images, everything(name)).tokens[case.blocks - 1]
            assert last.grid == (1, max(cells // 2, 1))
            assert last.prefix.shape[1] == len(case.prefix)

    def test_unknown_sites_are_refused(self, name):
        model = built(name)
        for site in ("stage:0", f"block:{CASES[name].blocks}", "pos_embed", "pool"):
            if site in CASES[name].sites:
                continue
            with pytest.raises(CapabilityError, match="no site"), model.intervene(site, zeroed, ids=()):
                pass
