"""The filters of the first layer: against the gradients of the layer that is called first, and where there are none."""

from __future__ import annotations

import pytest
import reduced
import reduced_any_timm
import reduced_cnn
import timm
import torch
from torch import nn
from torch.nn import functional

from harness.backbones.attention_pool import AttentionPoolModel, AttentionPoolResNet
from harness.backbones.cifar_resnet import CifarResNet, CifarResNetModel
from harness.backbones.patchconvnet import PatchConvNet, PatchConvNetModel
from harness.backbones.t2t import T2TModel, T2TViT
from harness.backbones.vision_transformer import TransformerModel
from harness.errors import CapabilityError
from harness.protocols import HasPatchFilters
from harness.types import Capability, OutputSpec

CHANNELS = 4


def card(side):
    return reduced_any_timm.card("tiny", side)


def hybrid():
    """A ResNet, whose convolutions standardise their weights, ahead of a transformer."""
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(0)
        net = timm.create_model("vit_tiny_r_s16_p8_224", pretrained=False, img_size=64, depth=1)
    return TransformerModel(net, card(64))


OWN = {
    "hybrid": hybrid,
    "patchconvnet": lambda: PatchConvNetModel(
        PatchConvNet(width=16, depth=1, num_classes=5, layer_scale=1.0), card(64)
    ),
    "attention_pool": lambda: AttentionPoolModel(AttentionPoolResNet(num_classes=5, blocks=(1, 1, 1, 1)), card(64)),
    "cifar_resnet": lambda: CifarResNetModel(CifarResNet(depth=8), card(32)),
}
MAKERS = {
    **OWN,
    **{f"own/{name}": lambda name=name: reduced.built(name) for name in reduced.CASES},
    **{f"cnn/{name}": lambda name=name: reduced_cnn.built(name) for name in reduced_cnn.CASES},
    **{f"timm/{name}": lambda name=name: reduced_any_timm.built(name) for name in reduced_any_timm.CASES},
}


def by_gradient(model):
    """What the middle place of the map that leaves the first convolution depends on: (CHANNELS, 3, S, S), and D."""
    found = []
    handles = [
        layer.register_forward_hook(lambda _, given, result: found.append(result.clone()))
        for layer in model.net.modules()
        if isinstance(layer, nn.Conv2d)
    ]
    side = model.info.input_size
    pixels = torch.rand(1, 3, side, side, generator=torch.Generator().manual_seed(0)).requires_grad_()
    try:
        capabilities = model.info.capabilities
        model.outputs(
            pixels,
            OutputSpec(logits=Capability.LOGITS in capabilities, pooled=Capability.LOGITS not in capabilities),
        )
    finally:
        for handle in handles:
            handle.remove()
    first = found[0]
    middle = first[0, :CHANNELS, first.shape[2] // 2, first.shape[3] // 2]
    (gradients,) = torch.autograd.grad(middle, pixels, torch.eye(len(middle)), is_grads_batched=True)
    # Towards pixels in [0, 1]; the filters are over those that the model has normalised.
    return gradients[:, 0] * torch.tensor(model.info.std).view(1, 3, 1, 1), first.shape[1]


@pytest.mark.parametrize("name", MAKERS)
def test_filters_are_what_the_first_layer_does_to_pixels(name):
    model = MAKERS[name]()
    assert isinstance(model, HasPatchFilters)
    filters = model.patch_filters()
    gradients, channels = by_gradient(model)
    assert filters.shape[:2] == (channels, 3)
    assert not filters.requires_grad
    side = filters.shape[2]
    assert filters.shape[3] == side
    seen = gradients.abs().sum(dim=(0, 1)) > 0
    rows, columns = (torch.nonzero(seen.any(dim=axis)).flatten() for axis in (1, 0))
    assert len(rows) == len(columns) == side
    field = gradients[:, :, rows[0] : rows[0] + side, columns[0] : columns[0] + side]
    scale = float(filters.abs().max())
    torch.testing.assert_close(filters[: len(field)], field, rtol=1e-4, atol=1e-5 * scale)


def test_a_standardised_weight_is_given_as_it_is_used():
    model = hybrid()
    stored = model.net.patch_embed.backbone.conv.weight
    found = model.patch_filters()
    assert not torch.allclose(found, stored, atol=1e-2)
    torch.testing.assert_close(found.mean(dim=(1, 2, 3)), torch.zeros(len(found)), rtol=0, atol=1e-6)


def test_a_patch_embedding_is_its_filters_on_normalised_patches(built, pixels, normalised):
    model, images = built("plain"), pixels("plain")
    filters, embed = model.patch_filters(), model.net.patch_embed
    side = filters.shape[-1]
    patches = functional.unfold(normalised("plain", images), side, stride=side).transpose(1, 2)
    by_hand = patches @ filters.flatten(1).T + embed.proj.bias
    torch.testing.assert_close(by_hand, embed(normalised("plain", images)).flatten(1, 2), rtol=1e-4, atol=1e-4)


def test_the_filters_are_a_copy(built):
    model = built("plain")
    model.patch_filters().zero_()
    assert model.patch_filters().abs().sum() > 0


def test_a_soft_split_is_refused():
    net = T2TViT(width=16, depth=1, heads=2, mlp_ratio=2, num_classes=5, side=32)
    with pytest.raises(CapabilityError, match="its first is none"):
        T2TModel(net, card(32)).patch_filters()


class _EachColourApart(nn.Module):
    """Filters that see one colour each."""

    num_classes, num_features, head_hidden_size = 6, 6, 6

    def __init__(self):
        super().__init__()
        self.layer = nn.Conv2d(3, 6, 3, groups=3)

    def forward(self, x):
        return self.layer(x).mean(dim=(2, 3))


def test_filters_of_one_colour_each_are_refused():
    model = reduced_any_timm.AnyTimmModel(_EachColourApart(), card(32))
    with pytest.raises(CapabilityError, match=r"one with weights of \(6, 1, 3, 3\)"):
        model.patch_filters()
