"""Real weights of three kinds of file, through the public ``--weights PATH``, on real images."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from harness.cli import main

DATA = Path(__file__).resolve().parents[3] / "shared" / "data"
WEIGHTS = DATA / "weights"
VIT = WEIGHTS / "vit_tiny_patch16_224_in1k" / "vit_tiny_patch16_224.augreg_in21k_ft_in1k.fp16.safetensors"
SQUEEZENET = WEIGHTS / "squeezenet1_1_in1k" / "squeezenet1_1.npz"
RESNET20 = WEIGHTS / "resnet20_cifar10" / "resnet20-12fca82f.th"

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not DATA.is_dir(), reason="the shared real data are not here"),
]


@pytest.fixture
def run(capsys, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HARNESS_CACHE_DIR", str(tmp_path / "cache"))

    def go(*arguments):
        with pytest.raises(SystemExit) as ended:
            main(["run", "--json", "--probe", "head", "--device", "cpu", *map(str, arguments)])
        answer = capsys.readouterr()
        assert ended.value.code == 0, answer.err
        (record,) = (json.loads(line) for line in answer.out.splitlines())
        return record

    return go


@pytest.mark.parametrize(
    ("model", "file", "dataset", "images", "least"),
    [
        ("vit_ti16", VIT, "folder", "imagenet_photos", 0.8),
        ("timm:vit_tiny_patch16_224.augreg_in21k_ft_in1k", VIT, "folder", "imagenet_photos", 0.8),
        ("squeezenet1_1", SQUEEZENET, "folder", "imagenet_photos", 0.5),
        ("resnet20_cifar10", RESNET20, "folder:label_space=cifar10", "cifar10_jpeg", 0.75),
    ],
)
def test_the_weights_know_the_images(run, model, file, dataset, images, least):
    record = run("-m", model, "--weights", file, "-d", dataset, "--data", DATA / images)
    top1 = next(row["value"] for row in record["measurements"] if row["metric"] == "top1" and not row["dims"])
    assert top1 > least
    assert record["cell"]["weights"].startswith("sha256:")
    assert record["environment"]["initial_weights"] == []


@pytest.mark.parametrize("change", ["posemb_interp=bilinear_corner,input=288", "input=288"])
def test_a_larger_input_still_knows_them(run, change):
    record = run(
        "-m", f"vit_ti16:{change}", "--weights", VIT, "-d", "folder", "--data", DATA / "imagenet_photos", "-L", "60"
    )
    top1 = next(row["value"] for row in record["measurements"] if row["metric"] == "top1" and not row["dims"])
    assert top1 > 0.75
    assert record["cell"]["components"]["model"]["params"]["input"] == 288


def test_without_positions_it_knows_far_fewer(run):
    arguments = ["--weights", VIT, "-d", "folder", "--data", DATA / "imagenet_photos", "-L", "60"]
    found = {}
    for positions in ("none", "shuffle", "mean"):
        record = run("-m", f"vit_ti16:positions={positions}", *arguments)
        found[positions] = next(r["value"] for r in record["measurements"] if r["metric"] == "top1" and not r["dims"])
    assert found["shuffle"] < 0.5 * found["none"]
    assert found["mean"] < found["none"]
