"""``harness shape-bias``: published decisions as a table, JSON, CSV and a picture; mistakes; it imports no torch."""

from __future__ import annotations

import csv
import random
import subprocess
import sys
from pathlib import Path

import pytest
import scipy.stats

from harness import stats
from harness.decision_files import COLUMNS, categories

HEADER = ",".join(COLUMNS)
PAIRS = [(shape, texture) for shape in categories() for texture in categories()]


def write(folder: Path, subject: str, *, shape: float, texture: float, seed: int = 0, name: str | None = None) -> Path:
    """A published file of one subject: every pair of cues, named by shape or by texture as often as said."""
    drawn = random.Random(f"{subject} {seed}")
    lines = [HEADER]
    for trial, (s, t) in enumerate(drawn.sample(PAIRS, len(PAIRS)), start=1):
        draw = drawn.random()
        named = s if draw < shape else t if draw < shape + texture else "na"
        lines.append(f"{subject},1,{trial},NaN,{named},{s},0,{trial:04d}_s5n_dnn_0_{s}_00_{s}1-{t}2.png")
    folder.mkdir(exist_ok=True)
    path = folder / (name or f"style-transfer-512-nomask-experiment_{subject}_session_1.csv")
    path.write_text("\n".join([*lines, ""]))
    return path


def by_hand(path: Path) -> tuple[int, int]:
    """Decisions by shape and by texture."""
    shape = texture = 0
    with path.open() as file:
        for row in csv.DictReader(file):
            s, t = (
                part.rstrip("0123456789") for part in row["imagename"].split("_")[-1].removesuffix(".png").split("-")
            )
            shape += s != t and row["object_response"] == s
            texture += s != t and row["object_response"] == t
    return shape, texture


@pytest.fixture
def raw(tmp_path):
    """Ten humans and two networks, as they are published."""
    folder = tmp_path / "raw"
    for i in range(1, 11):
        write(folder, f"subject-{i:02d}", shape=0.8, texture=0.05)
    write(folder, "alexnet", shape=0.25, texture=0.4)
    write(folder, "resnet50", shape=0.2, texture=0.5)
    return folder


def rows_of(answer):
    return {row["name"]: row for row in answer.json["rows"]}


def value(row, metric):
    return next(m for m in row["measurements"] if m["metric"] == metric and not m["dims"])


def test_every_subject_then_humans_and_networks_together(harness, raw):
    found = harness("shape-bias", raw, "--json")
    assert found.code == 0, found.err
    rows = rows_of(found)
    files = {path.name.split("_")[1]: path for path in raw.iterdir()}
    assert len(rows) == 16
    counted = {name: by_hand(path) for name, path in files.items()}
    for name, (shape, texture) in counted.items():
        bias = value(rows[name], "shape_bias")
        assert bias["value"] == pytest.approx(shape / (shape + texture))
        assert bias["low"] == stats.wilson(shape, shape + texture).low
        assert (value(rows[name], "shape_decisions")["value"], value(rows[name], "texture_decisions")["value"]) == (
            shape,
            texture,
        )
        assert (rows[name]["conflict_images"], rows[name]["agreeing_images"]) == (240, 16)
        assert rows[name]["humans"] == name.startswith("subject")
    humans = [counted[name] for name in counted if name.startswith("subject")]
    pooled, mean = rows["10 humans, pooled"], rows["10 humans, mean"]
    total = [sum(column) for column in zip(*humans, strict=True)]
    assert value(pooled, "shape_bias")["value"] == pytest.approx(total[0] / sum(total))
    biases = [shape / (shape + texture) for shape, texture in humans]
    low, high = scipy.stats.t.interval(0.95, 9, loc=sum(biases) / 10, scale=scipy.stats.sem(biases))
    found_mean = value(mean, "shape_bias")
    assert (found_mean["value"], found_mean["low"], found_mean["high"]) == pytest.approx((sum(biases) / 10, low, high))
    assert {"2 observers, pooled", "2 observers, mean"} <= set(rows)


def test_the_table(harness, raw):
    lines = harness("shape-bias", raw).out.splitlines()
    shape, texture = by_hand(next(raw.glob("*alexnet*")))
    (line,) = [line for line in lines if line.startswith("alexnet")]
    assert line.split()[1:4] == [str(shape), str(texture), f"{100 * shape / (shape + texture):.2f}"]
    assert any(line.startswith("10 humans, pooled") for line in lines)
    assert "240 decisions on images in conflict; 16 on images whose shape and texture agree left out" in lines
    assert any(line.startswith("[low, high]: shape bias bootstrap95 or wilson95") for line in lines)


def test_one_file_has_no_rows_of_several(harness, raw):
    found = harness("shape-bias", next(raw.glob("*alexnet*")))
    assert found.code == 0
    assert "pooled" not in found.out
    assert "mean:" not in found.out


def test_files_as_observers(harness, tmp_path):
    paths = [write(tmp_path / "x", "net", shape=0.3, texture=0.4, seed=i, name=f"train{i}.csv") for i in range(2)]
    clash = harness("shape-bias", *paths)
    assert clash.code == 4
    assert "net has decided on" in clash.err
    assert "--by file" in clash.err
    found = harness("shape-bias", *paths, "--by", "file", "--json")
    assert list(rows_of(found)) == ["train0", "train1", "2 observers, pooled", "2 observers, mean"]


def test_who_is_human(harness, tmp_path):
    paths = [write(tmp_path / "x", name, shape=0.5, texture=0.2) for name in ("Observer_A", "observer_b", "net")]
    assert not any(row["humans"] for row in rows_of(harness("shape-bias", *paths, "--json")).values())
    found = rows_of(harness("shape-bias", *paths, "--json", "--humans", "observer_*"))
    assert [name for name, row in found.items() if row["humans"]] == [
        "Observer_A", "observer_b", "2 humans, pooled", "2 humans, mean",
    ]  # fmt: skip


def test_pictures_and_numbers(harness, raw, tmp_path):
    picture, table = tmp_path / "bias.png", tmp_path / "numbers.csv"
    found = harness("shape-bias", raw, "--plot", picture, "--csv", table, "--average", "class-mean")
    assert found.code == 0, found.err
    assert picture.read_bytes().startswith(b"\x89PNG")
    assert found.err.splitlines() == [f"picture: {picture}", f"numbers: {table}"]
    with table.open() as file:
        rows = list(csv.DictReader(file))
    shape, texture = by_hand(next(raw.glob("*resnet50*")))
    (row,) = [row for row in rows if (row["observer"], row["metric"]) == ("resnet50", "shape_bias")]
    assert float(row["value"]) == shape / (shape + texture)
    assert sum(row["metric"] == "shape_bias_of_class" and row["observer"] == "alexnet" for row in rows) == 16
    assert {row["kind"] for row in rows} == {"observer", "pooled", "mean"}


@pytest.mark.parametrize(
    ("subjects", "systems", "reference"),
    [
        (("subject-01", "subject-02", "a", "b"), ["a", "b"], "2 humans, pooled"),
        (("subject-01", "a"), ["a"], "subject-01"),
        (("a", "b"), ["a", "b"], None),
        (("subject-01", "subject-02"), ["subject-01", "subject-02"], "2 humans, pooled"),
        (("subject-01",), [], "subject-01"),
    ],
)
def test_what_stands_on_the_picture(tmp_path, subjects, systems, reference):
    from harness.decision_files import read_decisions
    from harness.report.shape_bias_tables import study

    paths = [write(tmp_path / "x", name, shape=0.5, texture=0.2) for name in subjects]
    drawn, humans = study(read_decisions(paths)).systems()
    assert [system.label for system in drawn] == systems
    assert (humans and humans.label) == reference


def test_other_tables_in_a_folder_are_passed_over(harness, raw):
    (raw / "summary.csv").write_text("model,value\nnet,1\n")
    found = harness("shape-bias", raw)
    assert found.code == 0
    assert found.err.strip() == f"passed over, since they hold no decisions (1): {raw / 'summary.csv'}"


def test_what_lacks_decisions_is_said(harness, tmp_path):
    path = write(tmp_path / "x", "blank", shape=0, texture=0)
    some = tmp_path / "some.csv"
    some.write_text(f"{HEADER}\nfew,1,1,NaN,cat,cat,0,cat1-dog1.png\nfew,1,2,NaN,na,dog,0,dog1-cat1.png\n")
    found = harness("shape-bias", path, some, "--plot", tmp_path / "p.svg")
    assert found.code == 0, found.err
    assert "undefined" in next(line for line in found.out.splitlines() if line.startswith("blank"))
    assert "blank: neither cue was named on any image, so that there is no bias" in found.out
    assert "few: class mean over 1 of 16 classes; nothing decided of airplane, " in found.out
    assert "nan" not in found.out.lower().split()
    row = rows_of(harness("shape-bias", path, "--json"))["blank"]
    assert row["measurements"][0]["metric"] == "coverage"


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (("nowhere.csv",), 4, "there is no such file"),
        (("FILE", "--plot", "bias.jpg"), 2, "a picture must end in .png, .svg or .pdf"),
        (("FILE", "--plot", "nowhere/bias.png"), 2, "there is no folder"),
        (("FILE", "--classes", "cat"), 2, "--classes takes two or more different names"),
        (("FILE", "--classes", "cat,dog"), 4, "which is not one of the 2 classes"),
        ((), 2, "Missing argument 'FILE...'"),
    ],
)
def test_mistakes_are_one_error(harness, raw, monkeypatch, tmp_path, arguments, code, said):
    monkeypatch.chdir(tmp_path)
    path = next(raw.glob("*alexnet*"))
    found = harness("shape-bias", *(path if argument == "FILE" else argument for argument in arguments))
    assert (found.code, found.out) == (code, "")
    assert said in found.err


def test_no_decision_on_an_image_in_conflict(harness, tmp_path):
    path = tmp_path / "agree.csv"
    path.write_text(f"{HEADER}\nnet,1,1,NaN,cat,cat,0,cat1-cat2.png\n")
    found = harness("shape-bias", path)
    assert found.code == 4
    assert "net: not one of 1 images has a shape and a texture of different classes" in found.err


def test_neither_torch_nor_matplotlib_is_imported(raw):
    code = (
        "import sys\n"
        "from harness.cli.shape_bias import shape_bias\n"
        "shape_bias(sys.argv[1:], standalone_mode=False)\n"
        "print(sorted({'torch', 'timm', 'torchvision', 'matplotlib', 'pyarrow'} & set(sys.modules)), file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-c", code, str(raw)], capture_output=True, text=True, check=True)
    assert done.stderr.strip() == "[]"


def test_help_names_the_columns(harness):
    out = harness("shape-bias", "--help").out
    for part in ("FILE...", "--plot", "--humans", "object_response", "imagename", "[default: pooled]"):
        assert part in out
