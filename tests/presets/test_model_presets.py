"""Every preset of a model: as many parameters as published, and facts that are those of the network it names."""

from functools import cache

import pytest
import torchvision.models as tv

from harness.built_facts import built_facts
from harness.catalog import build_catalog
from harness.manager import build_manager
from harness.types import Capability

# Millions, as published: timm's results, or the paper or repository of the family. Compared to as many decimals.
PUBLISHED = {
    "vit_ti16": "5.72", "vit_s16": "22.05", "vit_b16": "86.57", "vit_b32": "88.22", "vit_l16": "304.33",
    "vit_ti16_384": "5.79", "vit_s16_384": "22.20", "vit_b16_384": "86.86", "vit_b32_384": "88.30",
    "vit_l16_384": "304.72", "vit_s16_in1k": "22.05", "vit_b16_in1k": "86.57", "vit_b32_in1k": "88.22",
    "vit_s16_in1k_384": "22.20", "vit_b16_in1k_384": "86.86", "vit_b32_in1k_384": "88.30",
    "vit_r_ti16": "6.34", "vit_r26_s32": "36.43", "vit_r50_l32": "328.99", "vit_r50_b16_384": "98.95",
    "dino_s16": "21.7", "dino_s8": "21.7", "dino_b16": "85.8", "dino_b8": "85.8",
    "dinov2_s14:input=518": "22.1", "dinov2_b14:input=518": "86.6",
    "deit_t": "5.72", "deit_s": "22.05", "deit_b": "86.57", "deit_b_384": "86.86",
    "deit_t_distilled": "5.91", "deit_s_distilled": "22.44", "deit_b_distilled": "87.34",
    "deit_b_distilled_384": "87.63", "deit3_s": "22.06", "deit3_m": "38.85", "deit3_b": "86.59", "deit3_l": "304.37",
    "deit_t_sin": "5.72", "deit_s_sin": "22.05", "deit_t_shape": "5.91", "deit_s_shape": "22.44",
    "swin_t": "28.29", "swin_s": "49.61", "swin_b": "87.77", "tnt_s": "23.8", "tnt_b": "65.4",
    "cait_xxs24": "11.96", "cait_xxs36": "17.30", "cait_s24": "46.92",
    "xcit_t12": "6.72", "xcit_t24": "12.12", "xcit_s12": "26.25", "xcit_s24": "47.67",
    "pit_t": "4.85", "pit_xs": "10.62", "pit_s": "23.46", "pit_b": "73.76",
    "pit_t_distilled": "5.10", "pit_s_distilled": "24.04", "pit_b_distilled": "74.79",
    "convit_t": "5.71", "convit_s": "27.78", "convit_b": "86.54",
    "resnet18": "11.69", "resnet34": "21.80", "resnet50": "25.56", "resnet101": "44.55", "resnet152": "60.19",
    "resnext50_32x4d": "25.03", "resnext101_32x8d": "88.79", "wide_resnet50_2": "68.88", "wide_resnet101_2": "126.89",
    "resnet50_sin": "25.56", "resnet50_sin_in": "25.56", "resnet50_sin_in_ft": "25.56", "resnet50_augmix": "25.56",
    "vgg11": "132.86", "vgg13": "133.05", "vgg16": "138.36", "vgg19": "143.67",
    "vgg11_bn": "132.87", "vgg13_bn": "133.05", "vgg16_bn": "138.37", "vgg19_bn": "143.68",
    "densenet121": "7.98", "densenet161": "28.68", "inception_v3": "23.83",
    "regnety_040": "20.65", "regnety_080": "39.18", "regnety_160": "83.59",
    "mobilenet_v2": "3.50", "mobilenet_v3_large": "5.48", "mobilenet_v3_small": "2.54",
    "efficientnet_b0": "5.29", "efficientnet_b2": "9.11", "efficientnet_b4": "19.34",
    "convnext_t": "28.59", "convnext_s": "50.22", "convnext_b": "88.59",
    "t2t_7": "4.3", "t2t_14": "21.5", "t2t_19": "39.2", "t2t_24": "64.1", "t2t_14_384": "21.7",
    "t2t_t_14": "21.5", "t2t_t_19": "39.2", "t2t_t_24": "64.1",
    # By formula from the papers' descriptions, exact.
    "patchconvnet_s60": 25_231_096, "patchconvnet_s120": 47_723_896, "patchconvnet_b60": 99_388_936,
    "patchconvnet_b120": 188_611_336, "patchconvnet_l60": 176_009_576, "patchconvnet_l120": 334_294_376,
    "patchconvnet_s60_multi": 25_614_712, "patchconvnet_s60_multi_ft": 25_614_712,
    "patchconvnet_s60_21k": 25_231_096, "patchconvnet_s60_384": 25_231_096, "patchconvnet_s60_512": 25_231_096,
    "patchconvnet_b60_21k": 99_388_936, "patchconvnet_b60_384": 99_388_936,
    "patchconvnet_b120_21k": 188_611_336, "patchconvnet_b120_384": 188_611_336,
    # ResNet-50 and the aggregation: projections, MLP of three times the width, norms, class token, scales.
    "resnet50_attnpool": 25_557_032 + 4 * (2048 * 2048 + 2048) + 2 * 3 * 2048 * 2048 + 4 * 2048 + 9 * 2048,
    "squeezenet1_0": 1_248_424, "squeezenet1_1": 1_235_496, "alexnet": 61_100_840, "googlenet": 6_624_904,
    "resnet20_cifar10": "0.27",
}  # fmt: skip

DEIT_T = 5_717_416
"""Of DeiT-Ti: 196 patches of 16 px, 192 wide."""

NAMESAKES = {
    "vit_b16": tv.ViT_B_16_Weights, "vit_b32": tv.ViT_B_32_Weights, "vit_l16": tv.ViT_L_16_Weights,
    "swin_t": tv.Swin_T_Weights, "swin_s": tv.Swin_S_Weights, "swin_b": tv.Swin_B_Weights,
    "resnet18": tv.ResNet18_Weights, "resnet34": tv.ResNet34_Weights, "resnet50": tv.ResNet50_Weights,
    "resnet101": tv.ResNet101_Weights, "resnet152": tv.ResNet152_Weights,
    "resnext50_32x4d": tv.ResNeXt50_32X4D_Weights, "resnext101_32x8d": tv.ResNeXt101_32X8D_Weights,
    "wide_resnet50_2": tv.Wide_ResNet50_2_Weights, "wide_resnet101_2": tv.Wide_ResNet101_2_Weights,
    "vgg11": tv.VGG11_Weights, "vgg16": tv.VGG16_Weights, "vgg19_bn": tv.VGG19_BN_Weights,
    "densenet121": tv.DenseNet121_Weights, "densenet161": tv.DenseNet161_Weights,
    "mobilenet_v2": tv.MobileNet_V2_Weights, "mobilenet_v3_large": tv.MobileNet_V3_Large_Weights,
    "efficientnet_b0": tv.EfficientNet_B0_Weights, "convnext_t": tv.ConvNeXt_Tiny_Weights,
    "convnext_b": tv.ConvNeXt_Base_Weights, "squeezenet1_0": tv.SqueezeNet1_0_Weights,
    "squeezenet1_1": tv.SqueezeNet1_1_Weights, "alexnet": tv.AlexNet_Weights, "googlenet": tv.GoogLeNet_Weights,
}  # fmt: skip
"""Presets whose architecture torchvision publishes multiply-accumulates of."""


@cache
def catalog():
    return build_catalog(build_manager())


def presets():
    return [row.name for row in catalog().rows("model") if row.source is not None]


def facts_of(name):
    return built_facts(catalog().resolve("model", name))


def test_every_preset_has_a_published_size():
    counted = {name.partition(":")[0] for name in PUBLISHED}
    by_formula = {"deit_t_nopos", *(f"deit_t_patch{patch}" for patch in (22, 28, 32, 38))}
    assert {*presets(), "resnet50_attnpool"} == counted | by_formula


@pytest.mark.parametrize("name", PUBLISHED)
def test_parameters_are_as_many_as_published(name):
    published, found = PUBLISHED[name], facts_of(name).parameters
    if isinstance(published, int):
        assert found == published
    else:
        decimals = len(published.partition(".")[2])
        assert f"{found / 1e6:.{decimals}f}" == published


def test_parameters_of_deits_with_other_patches_and_without_positions():
    assert facts_of("deit_t").parameters == DEIT_T
    assert facts_of("deit_t_nopos").parameters == DEIT_T - 197 * 192
    for patch in (22, 28, 32, 38):
        cells = (224 // patch) ** 2
        expected = DEIT_T + 192 * (3 * (patch**2 - 16**2) + cells - 196)
        assert facts_of(f"deit_t_patch{patch}").parameters == expected


@pytest.mark.parametrize("name", NAMESAKES)
def test_macs_are_those_that_torchvision_publishes(name):
    weights = NAMESAKES[name]
    meta = getattr(weights, "IMAGENET1K_V1", weights.DEFAULT).meta
    assert facts_of(name).macs / 1e9 == pytest.approx(meta["_ops"], rel=0.01, abs=0.006)


@pytest.mark.parametrize(("name", "published"), [("s60", 3.98), ("s120", 7.49), ("b60", 15.80), ("b120", 29.77)])
def test_macs_of_patchconvnet_are_as_published(name, published):
    assert facts_of(f"patchconvnet_{name}").macs / 1e9 == pytest.approx(published, abs=0.02)


@pytest.mark.parametrize("name", presets())
def test_a_preset_says_of_its_network_what_the_network_says_of_itself(name):
    resolved, info = catalog().resolve("model", name), facts_of(name).info
    assert resolved.view == info.view
    assert resolved.label_space == info.label_space
    assert resolved.capabilities == info.capabilities
    assert (resolved.label_space is None) == (Capability.LOGITS not in info.capabilities)
    assert resolved.is_preset


@pytest.mark.parametrize("name", presets())
def test_a_preset_is_pinned_to_one_set_of_weights(name):
    resolved = catalog().resolve("model", name)
    if name in ("patchconvnet_l60", "patchconvnet_l120"):
        assert resolved.tag is None
    elif resolved.weights_url is not None:
        assert resolved.tag == resolved.weights_url
        assert resolved.tag.startswith("https://")
    else:
        assert resolved.tag is not None
        assert "." in resolved.tag


def test_self_supervised_presets_are_refined_nowhere_else():
    for name in ("dino_s16", "dino_s8", "dino_b16", "dino_b8", "dinov2_s14", "dinov2_b14"):
        assert Capability.LOGITS not in catalog().resolve("model", name).capabilities


def test_published_accuracies_are_plausible_percentages():
    known = {name: top1 for name in presets() if (top1 := catalog().resolve("model", name).published_top1) is not None}
    assert len(known) > 80
    assert all(40 < top1 < 90 for top1 in known.values())
    for weaker, stronger in (
        ("vit_ti16", "vit_s16"),
        ("resnet18", "resnet50"),
        ("t2t_7", "t2t_14"),
        ("alexnet", "vgg16"),
    ):
        assert known[weaker] < known[stronger]
    namesakes = ("resnet18", "resnet34", "resnet50", "vgg16", "alexnet", "googlenet", "squeezenet1_1", "densenet121")
    table = {**NAMESAKES, "googlenet": tv.GoogLeNet_Weights}
    for name in namesakes:
        published = table[name].IMAGENET1K_V1.meta["_metrics"]["ImageNet-1K"]["acc@1"]
        assert known[name] == pytest.approx(published, abs=0.35)
