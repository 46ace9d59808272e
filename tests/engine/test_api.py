"""The Python interface: names and instances alike, typed results, and nothing of the caller's changed."""

from __future__ import annotations

import random
import sys
from typing import ClassVar

import numpy as np
import pytest
import torch
from engine_doubles import plugin
from engine_doubles.data import pictures
from engine_doubles.models import CLASSES, SPACE, VIEW, TinyModel, TinyNet
from engine_doubles.perturbations import SHARE, Dimmed, Speckled
from engine_doubles.probes import BreakingProbe, CentroidProbe, HeadProbe, PixelProbe

import harness
from harness.api import RunResult
from harness.errors import DataError, PluginError, RegistryError, UsageError, WeightsError
from harness.progress import NoProgress

SETUP = harness.Setup(plugins=(("doubles", plugin),), strict=True)
OPTIONS = harness.RunOptions(device="cpu", batch_size=8, workers=0)


def tints(**given):
    return harness.TensorDataset(
        *pictures(33, seed=1),
        **{
            "name": "mine",
            "classes": CLASSES,
            "label_space": SPACE,
            "support": pictures(18, seed=2),
            **given,
        },
    )


def wrapped(module=None, **given):
    return harness.wrap(
        module or TinyNet().float(),
        name="net",
        view=VIEW,
        mean=(0.5, 0.5, 0.5),
        std=(0.5, 0.5, 0.5),
        label_space=SPACE,
        pooled_input_of="head",
        **given,
    )


class FloatNet(torch.nn.Module):
    """As users write them: trainable, in train mode, float32."""

    def __init__(self):
        super().__init__()
        generator = torch.Generator().manual_seed(0)
        self.trunk = torch.nn.Conv2d(3, 12, 4, 4)
        self.drop = torch.nn.Dropout(0.5)
        self.head = torch.nn.Linear(12, 3)
        with torch.no_grad():
            for value in self.parameters():
                value.copy_(torch.randn(value.shape, generator=generator))

    def forward(self, images):
        return self.head(self.drop(torch.tanh(self.trunk(images)).mean(dim=(2, 3))))


def run(**given):
    return harness.run(**{"dataset": tints(), "options": OPTIONS, "setup": SETUP, **given})


def test_instances_of_everything_run_together():
    torch.manual_seed(0)
    result = run(
        model=wrapped(FloatNet()),
        perturb=["none", (Dimmed(), [0.25, 0.5]), Speckled()],
        probe=[HeadProbe(), CentroidProbe(shots=3)],
        seeds=[0, 1],
    )
    assert isinstance(result, RunResult)
    assert len(result.records) == 2 * (1 + 2 + 2 * 2)
    assert result.exit_code == 0
    record = result.get(probe="toy_head", perturbation="dimmed", level=0.5)
    images, labels = pictures(33, seed=1)
    module = FloatNet().eval()
    with torch.no_grad():
        expected = (module((torch.from_numpy(images) * 0.5 - 0.5) / 0.5).argmax(1).numpy() == labels).mean()
    assert record.get("accuracy").value == pytest.approx(expected)


def test_names_and_instances_mix():
    result = run(model=["tiny", TinyModel()], perturb="dimmed@0.5", probe=["toy_head", CentroidProbe()])
    assert len(result.records) == 4
    assert {record.cell["components"]["model"]["use"] for record in result.records} == {"tiny", "instance:tiny"}


def test_a_single_item_a_list_and_a_pair_with_levels():
    one = run(model="tiny", perturb=(Dimmed(), 0.5), probe="pixels")
    listed = run(model=["tiny"], perturb=[(Dimmed(), [0.5])], probe=["pixels"])
    assert [record.key for record in one.records] == [record.key for record in listed.records]


def test_results_as_rows_and_as_a_frame():
    pd = pytest.importorskip("pandas")
    result = run(model="tiny", perturb=["none", "dimmed@0.25,0.5"], probe=["toy_head", "pixels"])
    frame = result.to_pandas()
    assert isinstance(frame, pd.DataFrame)
    assert len(frame) == len(result.to_rows()) == sum(len(record.measurements) for record in result.records)
    accuracy = frame[(frame.metric == "accuracy") & (frame.level == 0.5)]
    assert accuracy.value.item() == result.get(probe="toy_head", level=0.5).get("accuracy").value
    assert not frame.untrained.any()


def test_a_frame_without_pandas_says_what_to_do(monkeypatch):
    result = run(model="tiny", probe="pixels")
    monkeypatch.setitem(sys.modules, "pandas", None)
    with pytest.raises(UsageError, match="needs pandas") as caught:
        result.to_pandas()
    assert "to_rows()" in caught.value.hint


def test_a_result_draws_itself(tmp_path):
    result = run(model="tiny", perturb=["none", "dimmed@0.25,0.5"], probe="toy_head")
    assert result.levels == {"dimmed": SHARE}
    result.plot(str(tmp_path / "curves.png"))
    assert (tmp_path / "curves.png").read_bytes().startswith(b"\x89PNG")
    with pytest.raises(UsageError, match="must end in"):
        result.plot(tmp_path / "curves")


def test_a_named_folder_gets_the_curves_of_a_sweep(tmp_path, monkeypatch):
    sweep = {"model": "tiny", "perturb": ["none", "dimmed@0.25,0.5"], "probe": "toy_head"}
    assert run(**sweep).artifacts is None  # a temporary folder
    assert run(**{**sweep, "perturb": "dimmed@0.25"}, out=tmp_path / "one").artifacts is None
    made = run(**sweep, out=tmp_path / "out").artifacts
    assert made.table == tmp_path / "out" / "artifacts" / "curves.csv"
    assert [path.name for path in made.pictures] == ["curves-mine-toy_head.png"]

    def broken(*given, **named):
        raise ZeroDivisionError("in a library")

    monkeypatch.setattr("harness.report.artifacts.draw_curves", broken)
    result = run(**sweep, out=tmp_path / "out")
    assert (len(result.records), result.exit_code, result.artifacts) == (3, 0, None)


def test_a_caller_may_look_at_the_plan_before_anything_is_built(tmp_path):
    from harness.api import run_asked
    from harness.request import Asked

    def refuse(plan):
        assert [cell.model.name for cell in plan.cells] == ["tiny"]
        raise UsageError("too much")

    asked = Asked(models=("tiny",), datasets=(tints(),), probes=("pixels",), perturbations=("none",))
    with pytest.raises(UsageError, match="too much"):
        run_asked(SETUP.open(), asked, out=tmp_path / "out", planned=refuse)
    assert not (tmp_path / "out").exists()


def test_the_repr_is_the_tables():
    result = run(model="tiny", perturb=["none", "dimmed@0.25,0.5"], probe=["toy_head", BreakingProbe(OSError("x"))])
    text = repr(result)
    assert text.startswith(f"RunResult: 3 records, 3 failed, in {result.path}")
    assert "tiny: accuracy (%) of toy_head on mine/query" in text
    assert "dimmed@0.25" in text
    assert "retention" in text
    assert max(map(len, text.splitlines())) < 160


def test_untrained_weights_are_marked():
    result = run(model="tiny", weights="random:1", probe="toy_head")
    assert result.records[0].untrained
    assert "tiny (untrained)" in repr(result)
    assert result.to_rows()[0]["untrained"] is True


def test_a_result_lives_as_long_as_it_is_held():
    result = run(model="tiny", probe="pixels")
    folder = result.path
    assert [record.key for record in harness.load_records(folder)] == [record.key for record in result.records]
    del result
    assert not folder.exists()


def test_a_folder_keeps_and_reuses_records(tmp_path):
    first = run(model="tiny", probe="pixels", out=tmp_path / "out")
    again = run(model="tiny", probe="pixels", out=str(tmp_path / "out"))
    assert (first.reused, again.reused) == (0, 1)
    assert again.records == first.records
    assert harness.load_records(tmp_path / "out") == list(first.records)


def test_get_wants_exactly_one():
    result = run(model="tiny", perturb=["none", "dimmed@0.5"], probe="pixels")
    assert result.get(perturbation="none").cell["level"] is None
    with pytest.raises(KeyError, match="2 of 2 records match"):
        result.get(model="tiny")
    with pytest.raises(KeyError, match="0 of 2 records match"):
        result.get(model="other")


def test_a_failing_cell_is_listed_and_nothing_exits():
    result = run(model="tiny", probe=[BreakingProbe(DataError("no such label"), position=3), "pixels"])
    assert result.exit_code == 1
    assert [failure.message for failure in result.failures] == ["no such label"]
    assert len(result.records) == 1


def test_mistakes_raise_what_they_are():
    with pytest.raises(RegistryError, match="no model named 'tinny'"):
        run(model="tinny", probe="pixels")
    with pytest.raises(UsageError, match="a TinyNet is neither a name nor a model"):
        run(model=TinyNet(), probe="pixels")
    with pytest.raises(UsageError, match="limit"):
        run(model="tiny", probe="pixels", limit="many")
    with pytest.raises(WeightsError, match="no file"):
        run(model="tiny", probe="pixels", weights="/no/such/file.pt")
    with pytest.raises(harness.HarnessError):
        run(model="weightless", probe="pixels")


def test_imagenet_logits_on_digits_never_become_a_number():
    with pytest.raises(harness.HarnessError) as caught:
        harness.plan(model="resnet18", weights="random", dataset="digits", probe="head")
    message = caught.value.message
    assert "probe head reads the model's own head" in message
    assert "resnet18 was trained on the labels of imagenet1k" in message
    assert "labelled with those of digits" in message
    assert "fewshot" in caught.value.hint


def test_planning_gives_the_cells_of_the_run():
    given = {"model": "tiny", "perturb": ["none", "dimmed"], "probe": ["pixels", "doubles:centroid"], "limit": 9}
    plan = harness.plan(**given, dataset=tints(), setup=SETUP)
    assert [cell.key for cell in plan.cells] == [record.key for record in run(**given).records]
    assert plan.passes[0].num_images == 9


def test_listing():
    rows = harness.list_entries("perturbation", setup=SETUP)
    names = [row.name for row in rows]
    assert names == sorted(names)
    assert {"none", "dimmed", "patchdrop_random"} <= set(names)
    assert next(row for row in rows if row.name == "dimmed").plugin == "doubles"
    assert "tiny" not in [row.name for row in harness.list_entries("model")]
    assert "tiny" in [row.name for row in harness.list_entries("model", setup=SETUP)]


def test_plugins_can_be_kept_out():
    setup = harness.Setup(plugins=(("doubles", plugin),), block=("patchdrop",))
    assert "patchdrop_random" not in [row.name for row in harness.list_entries("perturbation", setup=setup)]


def test_observers_see_the_run(tmp_path):
    seen = []

    class Observer:
        @harness.hookimpl
        def harness_run_started(self, plan):
            seen.append(("started", len(plan.cells)))

        @harness.hookimpl
        def harness_record_written(self, record):
            seen.append(("record", record.key))

        @harness.hookimpl
        def harness_run_finished(self, result):
            seen.append(("finished", len(result.records)))

    setup = harness.Setup(plugins=(("doubles", plugin), ("observer", Observer())))
    result = run(model="tiny", probe=["pixels", "toy_head"], setup=setup, out=tmp_path)
    assert seen == [("started", 2), *(("record", record.key) for record in result.records), ("finished", 2)]
    seen.clear()
    run(model="tiny", probe=["pixels", "toy_head"], setup=setup, out=tmp_path)
    assert seen == [("started", 2), ("finished", 2)]


def test_an_observer_that_fails_is_told_of_and_the_run_goes_on():
    class Observer:
        @harness.hookimpl
        def harness_record_written(self, record):
            raise ConnectionError("no tracker")

    class Notes(NoProgress):
        texts: ClassVar[list[str]] = []

        def note(self, text):
            self.texts.append(text)

    setup = harness.Setup(plugins=(("doubles", plugin), ("tracker", Observer())))
    result = run(model="tiny", probe=["pixels", "toy_head"], setup=setup, progress=Notes())
    assert len(result.records) == 2
    (warning,) = (text for text in Notes.texts if text.startswith("warning"))
    assert "tracker" in warning
    assert "no tracker" in warning


def test_a_plugin_that_is_handed_over_broken_is_an_error():
    class Misspelt:
        @harness.hookimpl
        def harness_run_startet(self, plan):
            pass

    with pytest.raises(PluginError, match="harness_run_startet"):
        harness.Setup(plugins=(("misspelt", Misspelt()),)).open()


def _numpy_state():
    kind, words, *rest = np.random.get_state()  # noqa: NPY002  # the global generator is what must not move
    return kind, words.tolist(), rest


def test_nothing_of_the_callers_is_changed():
    module = FloatNet()
    module.train()
    torch.manual_seed(5)
    random.seed(5)
    before = (torch.random.get_rng_state(), _numpy_state(), random.getstate())
    threads, default = torch.get_num_threads(), torch.get_default_dtype()
    state = {name: value.clone() for name, value in module.state_dict().items()}
    with torch.enable_grad():
        run(
            model=wrapped(module),
            perturb=["none", "speckled", "signstep", "guided@0.5"],
            probe=["toy_head", "doubles:centroid"],
            support_perturb=["none", "signstep:aim=probe@16"],
            seeds=[0, 1],
            precision="bf16",
        )
        assert torch.is_grad_enabled()
    assert torch.equal(torch.random.get_rng_state(), before[0])
    assert _numpy_state() == before[1]
    assert random.getstate() == before[2]
    assert (torch.get_num_threads(), torch.get_default_dtype()) == (threads, default)
    assert not torch.is_autocast_enabled("cpu")
    assert not torch.are_deterministic_algorithms_enabled()
    assert module.training
    assert all(parameter.requires_grad and parameter.grad is None for parameter in module.parameters())
    assert all(torch.equal(value, state[name]) for name, value in module.state_dict().items())


def test_grad_mode_off_stays_off_and_attacks_still_find_their_gradient():
    with torch.no_grad():
        result = run(model="tiny", perturb="signstep", probe="toy_head")
        assert not torch.is_grad_enabled()
    assert not result.failures
    clean, attacked = (result.get(level=level).get("accuracy").value for level in (0.0, 16.0))
    assert attacked < clean


def test_the_pixels_of_an_instance_and_of_a_name_are_the_same():
    named = run(model="tiny", perturb="speckled@0.3", probe="pixels")
    given = run(model="tiny", perturb=(Speckled(), 0.3), probe=PixelProbe())
    assert named.records[0].get("pixels").value == given.records[0].get("pixels").value


def test_seeds_from_python_reach_every_purpose():
    result = run(model="tiny", perturb="speckled@0.3", probe="doubles:centroid", seeds=[3])
    assert result.records[0].cell["seeds"] == {"perturb": 3, "support_perturb": None, "probe": 0}
