"""What a table calls a preset that was given other parameters: never by the preset's name alone."""

import pytest

from harness.catalog import build_catalog
from harness.manager import build_manager
from harness.planning import describe_ref


@pytest.fixture(scope="module")
def catalog():
    return build_catalog(build_manager())


@pytest.mark.parametrize(
    ("kind", "asked", "text"),
    [
        ("model", "vit_ti16", "vit_ti16"),
        ("model", "vit_ti16:positions=zero", "vit_ti16:positions=zero"),
        ("model", "vit_ti16:positions=none,input=0", "vit_ti16"),
        ("model", "dinov2_s14:input=518", "dinov2_s14:input=518"),
        ("model", "dinov2_s14:input=0", "dinov2_s14:input=0"),
        ("model", "timm:resnet18.a1_in1k", "timm:resnet18.a1_in1k"),
        ("model", "timm:resnet18.a1_in1k:input=288", "timm:resnet18.a1_in1k:input=288"),
        ("model", "vit:arch=test_vit.r160_in1k", "vit:arch=test_vit.r160_in1k"),
        ("model", "vit_mini", "vit_mini"),
        ("perturbation", "pgd5", "pgd5"),
        ("perturbation", "pgd5:steps=7", "pgd5:steps=7"),
        ("perturbation", "pgd:steps=7", "pgd:steps=7"),
    ],
)
def test_the_parameters_that_the_name_does_not_say_are_said(catalog, kind, asked, text):
    assert describe_ref(catalog.resolve(kind, asked).ref) == text


def test_they_enter_no_key_twice(catalog):
    named, spelled = (catalog.resolve("perturbation", text).ref for text in ("pgd5", "pgd:steps=5,step_255=0.5"))
    assert named.key == spelled.key
    assert (named.given, spelled.given) == ({}, None)


def test_a_table_of_one_model_says_them(tmp_path):
    import harness

    result = harness.run(
        model="deit_t:positions=mean", weights="random", dataset="digits", probe="knn:k=1,per_class=1", limit=4
    )
    (table,) = result.tables()
    assert table.title.startswith("deit_t:positions=mean (untrained): ")
