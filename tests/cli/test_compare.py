"""``harness compare``: what is printed of real runs, and mistakes; it imports no torch."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from harness.cli import main
from harness.outcome_files import outcome_path
from harness.records import load_records

GRID = ("-d", "shapes", "-p", "none", "-p", "patchdrop_random@0.5", "--probe", "head", "-q", "--no-cache")


def answered(folder: Path, models: str, *more: str) -> Path:
    """The output folder of a small run."""
    with pytest.raises(SystemExit) as ended:
        main(["run", "-m", models, *GRID, *more, "-o", str(folder)])
    assert ended.value.code == 0
    return folder


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Runs: ``pair`` of two models; ``other`` of a third; ``few`` of a third on fewer images."""
    folder = tmp_path_factory.mktemp("compare")
    with pytest.MonkeyPatch.context() as patched:
        patched.setenv("HARNESS_CACHE_DIR", str(folder / "cache"))
        answered(folder / "pair", "vit_mini,cnn_mini", "-L", "48")
        answered(folder / "other", "deit_mini", "-L", "48")
        answered(folder / "few", "deit_mini", "-L", "24")
    return folder


def test_models_of_a_run_are_a_table_with_letters(harness, runs):
    found = harness("compare", runs / "pair")
    assert found.code == 0, found.err
    lines = found.out.splitlines()
    assert lines[0] == "accuracy (%) of head on shapes/test"
    assert "patchdrop_random@0.5" in lines
    assert any(line.startswith("48 images (limit 48 of the split); view crop=56") for line in lines)
    block = lines[lines.index("patchdrop_random@0.5") + 1 :]
    assert block[0].split()[:2] == ["vit_mini", "a"]
    assert block[1].split()[:2] == ["cnn_mini", "b"]


def test_values_are_those_of_the_records(harness, runs):
    cells = [(record.cell, record.get("top1")) for record in load_records(runs / "pair")]
    records = {(cell["model"], cell["perturbation"]): top1 for cell, top1 in cells}
    questions = harness("compare", runs / "pair", "--json").json["questions"]
    assert [question["perturbation"] for question in questions] == ["none", "patchdrop_random"]
    for question in questions:
        assert len(question["pairs"]) == 1
        for contender in question["contenders"]:
            top1 = records[contender["model"], question["perturbation"]]
            assert (contender["value"], contender["low"], contender["high"]) == pytest.approx(
                (top1.value, top1.low, top1.high)
            )
            assert question["n"] == top1.n


def test_several_runs_are_compared_together(harness, runs):
    found = harness("compare", runs / "pair", runs / "other", "--pairs", "--family", "all", "--json")
    assert [len(question["pairs"]) for question in found.json["questions"]] == [3, 3]
    printed = harness("compare", runs / "pair", runs / "other", "--pairs", "--family", "all").out
    assert "all 6 pairs of all tables" in printed
    assert "pairs: accuracy (%) of head on shapes/test" in printed
    assert harness("compare", runs / "pair", runs / "other", "--all-heads").out.count("deit_mini cls") > 1


def test_what_is_not_comparable_is_one_error(harness, runs):
    found = harness("compare", runs / "pair", runs / "few")
    assert (found.code, found.out) == (2, "")
    assert "limit: 24 images for deit_mini in few" in found.err
    assert "48 images for vit_mini in pair, cnn_mini in pair" in found.err
    assert "hint: run all models with the same --limit" in found.err


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("other",), "all records in other are of one model, deit_mini"),
        (("nowhere",), "there is no"),
        (("pair", "--metric", "speed"), "no column 'speed'; there are correct"),
        (("pair", "--allow", "limit"), "limit may not differ"),
        (("pair", "--alpha", "7"), "alpha must lie between 0 and 1"),
    ],
)
def test_mistakes_are_one_error_that_says_what_to_do(harness, runs, arguments, said):
    found = harness("compare", runs / arguments[0], *arguments[1:])
    assert (found.code, found.out) == (2, "")
    assert said in found.err
    assert "hint:" in found.err


def test_no_run_named(harness):
    found = harness("compare")
    assert found.code == 2
    assert "Missing argument 'RUN...'" in found.err


def test_damaged_outcomes(harness, runs, tmp_path):
    folder = answered(tmp_path / "damaged", "vit_mini,cnn_mini", "-L", "12")
    outcome_path(folder, load_records(folder)[0].key).write_bytes(b"PAR1")
    found = harness("compare", folder)
    assert found.code == 2
    assert "cannot be read" in found.err
    assert "run the same command again" in found.err


def test_neither_torch_nor_matplotlib_is_imported(runs):
    code = (
        "import sys\n"
        "from harness.cli import main\n"
        "try:\n    main(sys.argv[1:])\n"
        "finally:\n"
        "    print(sorted({'torch', 'timm', 'torchvision', 'matplotlib'} & set(sys.modules)), file=sys.stderr)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, "compare", str(runs / "pair")], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert done.stderr.strip() == "[]"


def test_help_says_what_is_refused(harness):
    out = harness("compare", "--help").out
    for part in ("RUN...", "--metric", "--family", "--allow", "refused", "letter"):
        assert part in out
