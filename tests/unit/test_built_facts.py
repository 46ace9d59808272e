"""What is found by building a network without weights: its card, its parameters counted, its MACs."""

import pytest
import torch
from torch import nn

from harness.built_facts import built_facts, count_macs, count_parameters, torch_modules, with_exact_facts
from harness.catalog import build_catalog
from harness.entries import ModelEntry
from harness.errors import ParameterError, PluginError, RegistryError
from harness.hookspecs import hookimpl
from harness.manager import build_manager
from harness.types import Capability, View


@pytest.fixture(scope="module")
def catalog():
    return build_catalog(build_manager())


# --- counting --------------------------------------------------------------------------------------------------


def test_macs_are_products_and_not_twice_them():
    layer = nn.Conv2d(3, 8, 3, padding=1, bias=False, device="meta")
    assert count_macs(lambda: layer(torch.zeros(1, 3, 10, 10, device="meta"))) == 10 * 10 * 8 * 3 * 9
    queries = torch.zeros(1, 2, 5, 4, device="meta")
    attend = nn.functional.scaled_dot_product_attention
    assert count_macs(lambda: attend(queries, queries, queries)) == 2 * (2 * 5 * 5 * 4)


def test_shared_parameters_count_once():
    class Twice:
        def __init__(self):
            self.net = nn.Linear(3, 4)
            self.head = self.net

    assert count_parameters(Twice()) == 16
    assert len(torch_modules(Twice())) == 2
    assert torch_modules(3) == []


def test_nothing_is_allocated_for_a_large_network(catalog):
    facts = built_facts(catalog.resolve("model", "vit_l16"))
    assert facts.parameters == 304_326_632
    assert (facts.grid, facts.info.num_blocks, facts.info.weights.origin) == ((14, 14), 24, "random")


def test_a_model_without_a_network_has_no_parameters(catalog):
    facts = built_facts(catalog.resolve("model", "pixel_statistics"))
    assert (facts.parameters, facts.grid) == (0, None)


# --- exact facts for planning ----------------------------------------------------------------------------------


def test_a_preset_as_it_stands_is_not_built(catalog, monkeypatch):
    monkeypatch.setattr("harness.built_facts._built", lambda *_: pytest.fail("built"))
    resolved = catalog.resolve("model", "vit_b16")
    assert with_exact_facts(resolved) is resolved
    embedded = catalog.resolve("model", "vit_mini")
    assert with_exact_facts(embedded) is embedded


def test_other_parameters_than_the_presets_have_facts_of_their_own(catalog):
    larger = with_exact_facts(catalog.resolve("model", "vit_b16:input=384"))
    assert larger.view == View(resize=426, crop=384, interpolation="bicubic")
    headless = with_exact_facts(catalog.resolve("model", "vit:arch=vit_base_patch16_224.dino"))
    assert Capability.LOGITS not in headless.capabilities
    assert headless.label_space is None
    windowed = with_exact_facts(catalog.resolve("model", "timm:swin_tiny_patch4_window7_224.ms_in1k"))
    assert Capability.CLASS_TOKEN not in windowed.capabilities


def test_what_makes_no_network_is_refused_in_planning(catalog):
    with pytest.raises(ParameterError, match="timm has no architecture 'resnet51'") as caught:
        with_exact_facts(catalog.resolve("model", "timm:resnet51.a1_in1k"))
    assert "resnet50" in str(caught.value.hint)


def test_an_input_at_which_it_cannot_be_run_is_refused_in_planning(catalog):
    with pytest.raises(ParameterError, match=r"inception_v3: it cannot be run on 64 px") as caught:
        with_exact_facts(catalog.resolve("model", "inception_v3:input=64"))
    assert "nearer" in str(caught.value.hint)


def test_an_entry_as_it_stands_is_not_built(catalog, monkeypatch):
    monkeypatch.setattr("harness.built_facts._built", lambda *_: pytest.fail("built"))
    resolved = catalog.resolve("model", "resnet50_attnpool")
    assert with_exact_facts(resolved) is resolved


# --- names behind a plugin -------------------------------------------------------------------------------------


def test_any_name_behind_the_plugin_is_a_tag(catalog):
    resolved = catalog.resolve("model", "timm:resnet18.a1_in1k:input=288")
    assert (resolved.name, resolved.tag) == ("timm:resnet18.a1_in1k", "resnet18.a1_in1k")
    assert resolved.arguments["arch"] == "resnet18.a1_in1k"
    assert resolved.arguments["input"] == 288
    assert resolved.ref.key["use"] == "timm:any"
    described = catalog.describe("model", "timm:resnet18.a1_in1k")
    assert described["name"] == "timm:resnet18.a1_in1k"
    assert described["params"][0]["preset"] == "resnet18.a1_in1k"


def test_the_tag_cannot_be_given_twice(catalog):
    with pytest.raises(ParameterError, match="given twice"):
        catalog.resolve("model", "timm:resnet18.a1_in1k:arch=resnet18.a2_in1k")


def test_the_entry_itself_still_takes_its_parameter(catalog):
    assert catalog.resolve("model", "timm:any:arch=resnet18.a1_in1k").tag == "resnet18.a1_in1k"


def test_other_plugins_take_no_tags(catalog):
    with pytest.raises(RegistryError, match=r"no model named 'timm_vit:resnet18\.a1_in1k'"):
        catalog.resolve("model", "timm_vit:resnet18.a1_in1k")


# --- broken targets --------------------------------------------------------------------------------------------


def broken(*, weights):
    raise ZeroDivisionError("no such thing")


def no_model(*, weights):
    return nn.Identity()


class Plugin:
    @hookimpl
    def harness_register_models(self):
        for name in ("broken", "no_model"):
            yield ModelEntry(
                name=name,
                target=f"{__name__}:{name}",
                summary="it cannot be built",
                view=View(crop=8),
                capabilities=frozenset({Capability.POOLED}),
            )


def test_whatever_a_target_raises_is_named():
    catalog = build_catalog(build_manager(discover=False, extra=(("broken", Plugin()),)))
    with pytest.raises(PluginError, match=r"model broken cannot be built without weights: .*no such thing"):
        built_facts(catalog.resolve("model", "broken"))
    with pytest.raises(PluginError, match="built a Identity, no model"):
        built_facts(catalog.resolve("model", "no_model"))
