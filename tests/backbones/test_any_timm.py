"""Networks of timm without a wrapper of their own against bare timm, and networks that give less or nothing."""

import sys
from dataclasses import replace
from pathlib import Path

import pytest
import timm
import torch
from torch import nn

sys.path.insert(0, str(Path(__file__).parent))

from reduced_any_timm import CASES, bare, built, card, normalised, pixels, random_network, subject

from harness.backbones.any_timm import AnyTimmModel
from harness.errors import CapabilityError
from harness.protocols import Model
from harness.testing import run_checks
from harness.types import Capability, OutputSpec

LOGITS = OutputSpec(logits=True)
POOLED = OutputSpec(pooled=True)
WITH_PARTS = [name for name, case in CASES.items() if case.parts is not None]


@pytest.fixture(params=CASES)
def name(request):
    return request.param


@pytest.fixture(autouse=True)
def _no_gradients():
    with torch.no_grad():
        yield


def close(found, expected, tolerance=1e-5):
    """To ``tolerance`` of the largest magnitude."""
    scale = max(1.0, float(expected.abs().max())) if expected.numel() else 1.0
    torch.testing.assert_close(found / scale, expected / scale, rtol=tolerance, atol=tolerance)


def everything(model):
    blocks = frozenset(range(model.info.num_blocks))
    logits = Capability.LOGITS in model.info.capabilities
    return OutputSpec(logits=logits, pooled=True, tokens=blocks, normed_tokens=blocks)


def split(x, layout, prefix):
    """Prefix tokens (N, P, D) and patch tokens (N, K, D) of what leaves a module, and the grid where it has one."""
    if layout == "NLC":
        return x[:, :prefix], x[:, prefix:], None
    x = x if layout == "NCHW" else x.permute(0, 3, 1, 2)
    places = [x[:, :, row, column] for row in range(x.shape[2]) for column in range(x.shape[3])]
    return x.new_zeros(len(x), 0, x.shape[1]), torch.stack(places, dim=1), tuple(x.shape[2:])


def leaving(net, names, images):
    """What leaves the modules ``names`` in timm's own forward pass."""
    found = {}
    handles = [
        net.get_submodule(name).register_forward_hook(
            lambda _, given, result, name=name: found.__setitem__(name, result.clone())
        )
        for name in names
    ]
    try:
        net(normalised(images))
    finally:
        for handle in handles:
            handle.remove()
    return found


# --- networks of many kinds ------------------------------------------------------------------------------------


def test_keeps_the_whole_contract(name):
    with torch.enable_grad():
        outcomes = run_checks(subject(name))
    assert [o.message for o in outcomes if o.status == "failed"] == []
    interventions = {o.check for o in outcomes if o.check.startswith("intervention")}
    assert len(interventions) == 4
    skipped = {o.check for o in outcomes if o.status == "skipped"}
    assert skipped == interventions | {"descriptor_is_light"}


def test_the_card_says_what_the_network_is(name):
    case, model = CASES[name], built(name)
    assert isinstance(model, Model)
    info = model.info
    assert (info.num_blocks, info.embed_dim, info.pooled_dim) == (len(case.widths), case.widths[-1], case.pooled)
    assert (info.prefix, info.patch_size, info.num_classes) == (case.prefix, case.patch_size, case.num_classes)
    assert (info.heads, info.label_space) == ((("head",), "sample") if case.num_classes else ((), None))
    assert info.capabilities == case.capabilities


def test_logits_are_timms(name):
    model, images = built(name), pixels(name)
    if CASES[name].num_classes is None:
        with pytest.raises(CapabilityError, match="gives no logits"):
            model.outputs(images, LOGITS)
        return
    expected = bare(name)(normalised(images))
    told_apart = expected.std(dim=0).max() / expected.abs().max()
    assert told_apart > 1e-3, "every image gives the same logits, so the test shows nothing"
    close(model.outputs(images, LOGITS).logits["head"], expected)
    close(model.outputs(images, everything(model)).logits["head"], expected)


def test_pooled_is_timms_pre_logits(name):
    net, model, images = bare(name), built(name), pixels(name)
    expected = net.forward_head(net.forward_features(normalised(images)), pre_logits=True)
    close(model.outputs(images, POOLED).pooled, expected)
    close(model.outputs(images, everything(model)).pooled, expected)


def test_tokens_are_timms_intermediates(name):
    case, model, images = CASES[name], built(name), pixels(name)
    expected = bare(name).forward_intermediates(normalised(images), intermediates_only=True)
    outputs = model.outputs(images, everything(model))
    for i, x in enumerate(expected):
        _, patches, grid = split(x, "NCHW", 0)
        close(outputs.tokens[i].patches, patches)
        assert outputs.tokens[i].grid == grid == (case.grids[i], case.grids[i])
        assert outputs.tokens[i].patches.shape[2] == case.widths[i]


@pytest.mark.parametrize("name", WITH_PARTS)
def test_tokens_are_what_leaves_the_blocks(name):
    case, model, images = CASES[name], built(name), pixels(name)
    prefix, last = len(case.prefix), len(case.parts) - 1
    expected = leaving(bare(name), [*case.parts, *([case.norm] if case.norm else [])], images)
    outputs = model.outputs(images, everything(model))
    for i, part in enumerate(case.parts):
        before, patches, _ = split(expected[part], case.layout, prefix)
        close(outputs.tokens[i].prefix, before)
        close(outputs.tokens[i].patches, patches)
        if i < last or case.norm is None:
            assert torch.equal(outputs.normed_tokens[i].patches, outputs.tokens[i].patches)
            assert torch.equal(outputs.normed_tokens[i].prefix, outputs.tokens[i].prefix)
    if case.norm is not None:
        before, patches, _ = split(expected[case.norm], case.layout, prefix)
        close(outputs.normed_tokens[last].prefix, before)
        close(outputs.normed_tokens[last].patches, patches)
        assert not torch.equal(outputs.normed_tokens[last].patches, outputs.tokens[last].patches)


def test_one_call_is_one_pass_and_no_block_too_many():
    model, calls = built("beit"), []
    hooks = [b.register_forward_hook(lambda *_, i=i: calls.append(i)) for i, b in enumerate(model.net.blocks)]
    try:
        for want, expected in (
            (everything(model), [0, 1, 2]),
            (LOGITS | POOLED, [0, 1, 2]),
            (OutputSpec(tokens=frozenset({0}), normed_tokens=frozenset({1})), [0, 1]),
            (OutputSpec(tokens=frozenset({0}), pooled=True), [0, 1, 2]),
        ):
            calls.clear()
            model.outputs(pixels("beit"), want)
            assert calls == expected
    finally:
        for hook in hooks:
            hook.remove()


def test_parts_of_one_call_are_those_of_separate_calls(name):
    model, images = built(name), pixels(name)
    whole = model.outputs(images, everything(model))
    for block in range(model.info.num_blocks):
        one = frozenset({block})
        tokens = model.outputs(images, OutputSpec(tokens=one))
        assert (tokens.logits, tokens.pooled, tokens.normed_tokens) == ({}, None, {})
        close(tokens.tokens[block].patches, whole.tokens[block].patches)
        normed = model.outputs(images, OutputSpec(normed_tokens=one)).normed_tokens[block]
        close(normed.patches, whole.normed_tokens[block].patches)
        close(normed.prefix, whole.normed_tokens[block].prefix)


def test_gradients_are_timms_and_reach_no_parameter(name):
    with torch.enable_grad():
        ours, theirs = (pixels(name).requires_grad_() for _ in range(2))
        built(name).outputs(ours, POOLED).pooled[:, 3].sum().backward()
        net = bare(name)
        net.forward_head(net.forward_features(normalised(theirs)), pre_logits=True)[:, 3].sum().backward()
    close(ours.grad, theirs.grad, 1e-4)
    assert all(p.grad is None and not p.requires_grad for p in built(name).net.parameters())


def test_images_are_independent(name):
    model, images = built(name), pixels(name, 4)
    parts = torch.cat([model.outputs(part, POOLED).pooled for part in (images[:1], images[1:])])
    close(parts, model.outputs(images, POOLED).pooled)


def test_there_is_no_site(name):
    with pytest.raises(CapabilityError, match="no site 'block:0'"):
        built(name).intervene("block:0", lambda tokens: tokens, ids=("a",))


def test_the_meta_device_says_the_same_of_the_card(name):
    with torch.device("meta"):
        net = CASES[name].make()
    assert all(parameter.is_meta for parameter in net.parameters())
    assert AnyTimmModel(net, card(name, CASES[name].side)).info == built(name).info


def test_a_model_can_be_wrapped_in_inference_mode():
    net = random_network(CASES["beit"])
    with torch.inference_mode():
        model = AnyTimmModel(net, card("beit", 64))
    assert Capability.GRADIENTS in model.info.capabilities
    close(model.outputs(pixels("beit"), LOGITS).logits["head"], bare("beit")(normalised(pixels("beit"))))


def test_logits_stay_float32_under_autocast():
    for name in ("beit", "byobnet"):
        with torch.autocast("cpu", dtype=torch.bfloat16):
            found = built(name).outputs(pixels(name), LOGITS).logits["head"]
        assert found.dtype == torch.float32


# --- networks that give less -----------------------------------------------------------------------------------


class Small(nn.Module):
    """timm's interface over two blocks of a convolution each, so that parts of it can be broken."""

    num_classes = 3

    def __init__(self):
        super().__init__()
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(0)
            self.blocks = nn.ModuleList([nn.Conv2d(3, 4, 2, stride=2), nn.Conv2d(4, 4, 2, stride=2)])
            self.head = nn.Linear(4, 3)

    def forward_intermediates(self, x, indices=None, norm=False, stop_early=False, intermediates_only=False):
        maps = []
        for block in self.blocks:
            x = block(x)
            maps.append(x)
        maps = maps if indices is None else [maps[i] for i in indices]
        return maps if intermediates_only else (x, maps)

    def forward_features(self, x):
        return self.forward_intermediates(x)[0]

    def forward_head(self, x, pre_logits=False):
        pooled = x.mean(dim=(2, 3))
        return pooled if pre_logits else self.head(pooled)

    def forward(self, x):
        return self.forward_head(self.forward_features(x))


WHOLE = frozenset({Capability.LOGITS, Capability.POOLED, Capability.TOKENS, Capability.GRADIENTS})


def small(**methods):
    return type("Small", (Small,), methods)()


def claims(net):
    return AnyTimmModel(net, card("small", 8)).info.capabilities


def refuse(*_, **__):
    raise NotImplementedError


def test_a_network_with_the_whole_interface_claims_all_of_it():
    model = AnyTimmModel(small(), card("small", 8))
    assert model.info.capabilities == WHOLE
    assert (model.info.num_blocks, model.info.embed_dim, model.info.pooled_dim) == (2, 4, 4)


@pytest.mark.parametrize(
    "broken",
    [
        {"forward_intermediates": None},
        {"forward_intermediates": refuse},
        # Other features than those that the head is made for.
        {"forward_intermediates": lambda self, x, **_: (self.blocks[0](x), [self.blocks[0](x)])},
        {"forward_intermediates": lambda self, x, **_: (self.blocks[1](self.blocks[0](x)), [])},
        {"forward_intermediates": lambda self, x, **_: (self.blocks[1](self.blocks[0](x)), ["a map"])},
    ],
    ids=["none", "refuses", "other features", "no maps", "no tensors"],
)
def test_tokens_that_are_not_delivered_are_not_claimed(broken):
    features = lambda self, x: self.blocks[1](self.blocks[0](x))  # noqa: E731
    net = small(**broken, forward_features=features)
    assert claims(net) == WHOLE - {Capability.TOKENS}
    model = AnyTimmModel(net, card("small", 8))
    assert (model.info.num_blocks, model.info.embed_dim) == (0, 0)
    images = torch.rand(2, 3, 8, 8)
    close(model.outputs(images, LOGITS).logits["head"], net(normalised(images)))
    with pytest.raises(CapabilityError, match="gives no tokens"):
        model.outputs(images, OutputSpec(tokens=frozenset({0})))


@pytest.mark.parametrize(
    "head",
    [
        None,
        lambda self, x: self.head(x.mean(dim=(2, 3))),
        lambda self, x, pre_logits=False: x if pre_logits else self.head(x.mean(dim=(2, 3))),
        lambda self, x, pre_logits=False: x.mean(dim=(2, 3)) if pre_logits else -self.head(x.mean(dim=(2, 3))),
    ],
    ids=["none", "no pre-logits", "a map", "other logits"],
)
def test_pre_logits_that_are_not_delivered_are_not_claimed(head):
    plain = lambda self, x: self.head(self.forward_features(x).mean(dim=(2, 3)))  # noqa: E731
    net = small(forward_head=head, forward=plain)
    assert claims(net) == frozenset({Capability.LOGITS, Capability.GRADIENTS})
    images = torch.rand(2, 3, 8, 8)
    outputs = AnyTimmModel(net, card("small", 8)).outputs(images, LOGITS)
    close(outputs.logits["head"], net(normalised(images)))


def test_without_classes_the_output_is_pooled_even_without_a_head():
    net = small(forward_head=None, num_classes=0, forward=lambda self, x: self.forward_features(x).amax(dim=(2, 3)))
    model = AnyTimmModel(net, card("small", 8))
    assert model.info.capabilities == frozenset({Capability.POOLED, Capability.GRADIENTS})
    images = torch.rand(2, 3, 8, 8)
    close(model.outputs(images, POOLED).pooled, net(normalised(images)))
    assert model.info.pooled_dim == 4


def test_a_graph_that_is_cut_is_not_claimed():
    net = small(forward_features=lambda self, x: Small.forward_features(self, x.detach()))
    assert Capability.GRADIENTS not in claims(net)


def test_normed_tokens_of_a_network_that_says_nothing_of_them_are_its_tokens():
    def walk(self, x, norm=False, **options):
        if norm:
            raise NotImplementedError
        features, maps = Small.forward_intermediates(self, x, **{**options, "intermediates_only": False})
        return maps if options.get("intermediates_only") else (features * 2, maps)

    net = small(forward_intermediates=walk, forward_head=lambda self, x, pre_logits=False: _half(self, x, pre_logits))
    model = AnyTimmModel(net, card("small", 8))
    assert Capability.TOKENS in model.info.capabilities
    one = frozenset({1})
    outputs = model.outputs(torch.rand(2, 3, 8, 8), OutputSpec(tokens=one, normed_tokens=one))
    assert torch.equal(outputs.tokens[1].patches, outputs.normed_tokens[1].patches)


def _half(net, x, pre_logits):
    return Small.forward_head(net, x / 2, pre_logits)


@pytest.mark.parametrize(("count", "grid"), [(16, (4, 4)), (8, (1, 8))])
def test_tokens_without_a_map_are_a_square_or_a_row(count, grid):
    def walk(self, x, **options):
        features = self.blocks[1](self.blocks[0](x))
        tokens = torch.arange(count * 4.0).reshape(1, count, 4).expand(len(x), -1, -1)
        return [tokens] if options.get("intermediates_only") else (features, [tokens])

    features = lambda self, x: self.blocks[1](self.blocks[0](x))  # noqa: E731
    model = AnyTimmModel(small(forward_intermediates=walk, forward_features=features), card("small", 8))
    tokens = model.outputs(torch.rand(2, 3, 8, 8), OutputSpec(tokens=frozenset({0}))).tokens[0]
    assert (tokens.grid, tuple(tokens.prefix.shape)) == (grid, (2, 0, 4))
    assert torch.equal(tokens.patches[1], torch.arange(count * 4.0).reshape(count, 4))


@pytest.mark.parametrize(
    ("attributes", "expected"),
    [
        ({"cls_token": 1, "reg_token": 1}, ("cls", "register0", "register1")),
        ({"cls_token": 1, "dist_token": 1, "reg_token": 1}, ("cls", "dist", "register0")),
        ({"reg_token": 1}, ("register0", "register1", "register2")),
        ({"cls_token": 1}, ("token0", "token1", "token2")),
        ({}, ("token0", "token1", "token2")),
    ],
)
def test_prefix_tokens_are_called_what_the_network_says(attributes, expected):
    def walk(self, x, return_prefix_tokens=False, **options):
        features = self.blocks[1](self.blocks[0](x))
        maps = [(features, torch.ones(len(x), 3, 4)) if return_prefix_tokens else features]
        return maps if options.get("intermediates_only") else (features, maps)

    features = lambda self, x: self.blocks[1](self.blocks[0](x))  # noqa: E731
    net = small(forward_intermediates=walk, forward_features=features, **attributes)
    model = AnyTimmModel(net, card("small", 8))
    assert model.info.prefix == expected
    assert (Capability.CLASS_TOKEN in model.info.capabilities) == ("cls" in expected)
    tokens = model.outputs(torch.rand(2, 3, 8, 8), OutputSpec(tokens=frozenset({0}))).tokens[0]
    assert torch.equal(tokens.prefix, torch.ones(2, 3, 4))


# --- networks that are no model --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("net", "found"),
    [
        (small(forward=lambda self, x: self.forward_features(x)), r"gave \(1, 4, 2, 2\)"),
        (small(forward=lambda self, x: (x, x)), "gave a tuple"),
        (small(forward=lambda self, x: {"logits": x}), "gave a dict"),
    ],
    ids=["a map", "two", "a dict"],
)
def test_what_gives_no_vector_is_refused(net, found):
    with pytest.raises(CapabilityError, match=found) as caught:
        AnyTimmModel(net, card("small", 8))
    assert "wrap_module" in str(caught.value.hint)


def test_an_input_of_the_wrong_size_is_refused():
    net = timm.create_model("deit_tiny_patch16_224", depth=1, embed_dim=32, num_heads=2)
    with pytest.raises(CapabilityError, match="does not take an image of 64 x 64 pixels") as caught:
        AnyTimmModel(net, card("vit", 64))
    assert "view" in str(caught.value.hint)


def test_want_of_memory_is_not_taken_for_a_lack(monkeypatch):
    def exhausted(*_, **__):
        raise torch.OutOfMemoryError("no memory")

    for method in ("forward", "forward_features", "forward_intermediates"):
        if method == "forward_features":
            net = small(forward_features=exhausted, forward=lambda self, x: torch.zeros(1, 3))
        else:
            net = small(**{method: exhausted}, forward_features=lambda self, x: self.blocks[1](self.blocks[0](x)))
        with pytest.raises(torch.OutOfMemoryError):
            AnyTimmModel(net, card("small", 8))


def test_a_card_is_not_changed():
    before = card("small", 8)
    AnyTimmModel(small(), before)
    assert before == card("small", 8)
    assert replace(before, num_blocks=2) != before
