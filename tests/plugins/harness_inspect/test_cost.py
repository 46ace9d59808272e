"""What a model costs: counts and memory against closed forms, times against a clock of our own, and the pictures."""

from __future__ import annotations

from contextlib import contextmanager
from dataclasses import replace
from functools import cache
from itertools import pairwise

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional

from harness.built_facts import built_facts
from harness.catalog import build_catalog
from harness.errors import CapabilityError, HarnessError, ParameterError
from harness.exhibits import Finding
from harness.manager import build_manager
from harness.params import canonical, coerce
from harness.protocols import FittedProbe, HasArrays, Probe, ProbeContext, ProbeRun
from harness.testing.sample import TinyModel, TinyShape, tiny_model, without
from harness.types import Capability, Measurement, OutputSpec, ResultRecord
from harness.weights import WeightsChoice
from harness_inspect import machine_load, timed_passes
from harness_inspect.activation_memory import peak_of_new_tensors
from harness_inspect.answers import first_block, whole_pass
from harness_inspect.cost import CostParams, harness_register_probes
from harness_inspect.cost_exhibit import exhibit, noise
from harness_inspect.cost_probe import CostProbe, macs_of, ramp, timing
from harness_inspect.timed_passes import Passes, timed_rounds

MIB = 2**20
CPU = torch.device("cpu")
QUICK = {"rounds": 3, "round_seconds": 0.0, "warm_up": 1}
TIMED = {"latency", "throughput", "timing_spread", "other_load"}


def measured(model, *, precision="fp32", **params):
    context = ProbeContext(
        model=model.info, classes=(), label_space=None, seed=0, network=model, device=CPU, precision=precision
    )
    return CostProbe(**{**QUICK, **params}).fit(None, context).start()


def rows_of(run):
    return {(row.metric, row.dims.get("batch")): row for row in run.result()}


def values_of(run):
    return {key: row.value for key, row in rows_of(run).items()}


# --- contracts and parameters ----------------------------------------------------------------------------------


def test_it_keeps_the_contracts():
    probe, model = CostProbe(**QUICK), tiny_model()
    context = ProbeContext(model=model.info, classes=(), label_space=None, seed=0, network=model)
    fitted = probe.fit(None, context)
    assert isinstance(probe, Probe)
    assert isinstance(fitted, FittedProbe)
    assert isinstance(fitted.start(), ProbeRun)
    assert isinstance(fitted.start(), HasArrays)
    assert (probe.wants(model.info), probe.features(model.info)) == (OutputSpec(), None)
    assert len(fitted.start().outcomes().positions) == 0


def test_the_descriptor_agrees_with_the_probe():
    (entry,) = harness_register_probes()
    params = coerce(entry.params, {"batch_sizes": "8+1", "rounds": "4"}, "cost")
    probe = CostProbe(batch_sizes=params.batch_sizes, rounds=params.rounds)
    assert probe.info.params == canonical(params)
    assert canonical(params)["batch_sizes"] == [1, 8]
    assert (probe.info.name, probe.info.headline, probe.info.version) == (entry.name, entry.headline, entry.version)
    assert probe.info.of_model
    assert entry.of_model
    assert canonical(CostProbe()._params) == canonical(CostParams())


@pytest.mark.parametrize(
    ("params", "named"),
    [
        ({"batch_sizes": ()}, "batch_sizes"),
        ({"batch_sizes": (4, 4)}, "each once"),
        ({"batch_sizes": (0, 1)}, "batch_sizes"),
        ({"rounds": 2}, "rounds"),
        ({"round_seconds": -1.0}, "round_seconds"),
        ({"warm_up": 0}, "warm_up"),
    ],
)
def test_impossible_parameters_are_refused(params, named):
    with pytest.raises(ParameterError, match=named):
        CostProbe(**params)


def test_what_is_asked_is_the_most_a_model_gives():
    card = tiny_model().info
    assert whole_pass(card) == OutputSpec(logits=True)
    headless = without(card, frozenset({Capability.LOGITS}))
    assert whole_pass(headless) == OutputSpec(pooled=True)
    bare = without(headless, frozenset({Capability.POOLED}))
    assert whole_pass(bare) == OutputSpec(tokens=frozenset({1}))
    assert first_block(card) == OutputSpec(tokens=frozenset({0}))
    assert first_block(without(card, frozenset({Capability.TOKENS}))) == OutputSpec(logits=True)
    with pytest.raises(CapabilityError, match="nothing can be run"):
        whole_pass(without(bare, frozenset({Capability.TOKENS})))


# --- counts ----------------------------------------------------------------------------------------------------


def test_macs_are_those_of_the_closed_form():
    shape = TinyShape(side_px=32, patch_px=8, width=48, heads=2, blocks=3, classes=10)
    model = TinyModel(shape=shape, label_space="sample", seed=0)
    width, patches = 48, 16
    tokens = patches + 1
    block = tokens * width * (3 * width) + 2 * tokens**2 * width + tokens * width**2 + 2 * tokens * width * 2 * width
    expected = patches * width * 3 * 8 * 8 + 3 * block + width * 10
    found = values_of(measured(model))
    assert found["macs", None] == pytest.approx(expected / 1e9, rel=1e-12)
    assert found["flops", None] == pytest.approx(2 * expected / 1e9, rel=1e-12)


def test_parameters_and_weights_are_counted_once():
    model = tiny_model()
    model.net.register_buffer("spare", torch.zeros(MIB))
    model.net.also = model.net.head
    parameters = sum(p.numel() for p in model.net.parameters())
    found = values_of(measured(model))
    assert found["parameters", None] == pytest.approx(parameters / 1e6)
    assert found["weight_memory", None] == pytest.approx(4 * parameters / MIB + 4)


def test_fused_attention_is_counted_on_the_cpu():
    tokens, width = 20, 32
    query = torch.rand(1, 4, tokens, width // 4)
    found = macs_of(lambda: functional.scaled_dot_product_attention(query, query, query))
    assert found == 2 * tokens**2 * width


def test_the_fast_path_of_a_transformer_layer_is_counted():
    tokens, width = 12, 16
    layer = nn.TransformerEncoderLayer(width, 2, 32, batch_first=True).eval().requires_grad_(False)
    x = torch.rand(1, tokens, width)
    fast = torch.backends.mha.get_fastpath_enabled()
    with torch.inference_mode():
        found = macs_of(lambda: layer(x))
    assert found == tokens * (4 * width**2 + 2 * width * 32) + 2 * tokens**2 * width
    assert torch.backends.mha.get_fastpath_enabled() == fast


@cache
def catalog():
    return build_catalog(build_manager())


def zoo(name):
    resolved = catalog().resolve("model", name)
    origin = "pretrained" if resolved.entry.embedded_sha256 else "random"
    return resolved, catalog().load_target(resolved.entry)(**resolved.arguments, weights=WeightsChoice(origin=origin))


@pytest.mark.parametrize("name", ["vit_mini", "cnn_mini"])
def test_counts_agree_with_those_of_planning(name):
    resolved, model = zoo(name)
    facts, found = built_facts(resolved), values_of(measured(model, batch_sizes=(1,)))
    assert found["macs", None] * 1e9 == pytest.approx(facts.macs, rel=1e-12)
    assert found["parameters", None] * 1e6 == pytest.approx(facts.parameters, rel=1e-12)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "macs", "millions"),
    [("resnet50", 4.09, 25.56), ("vit_b16", 17.56, 86.57), ("patchconvnet_s60", 3.98, 25.23), ("t2t_t_14", 6.1, 21.5)],
)
def test_published_counts_are_found(name, macs, millions):
    """torchvision's model cards; PatchConvNet's and T2T's papers, which call multiply-accumulates FLOPs."""
    found = values_of(measured(zoo(name)[1], batch_sizes=(1,)))
    assert found["macs", None] == pytest.approx(macs, rel=0.01)
    assert found["parameters", None] == pytest.approx(millions, rel=0.005)


# --- memory ----------------------------------------------------------------------------------------------------


def kib(count):
    return torch.ones(256 * count)


def test_what_was_there_before_counts_nothing():
    before = kib(8)
    assert peak_of_new_tensors(lambda: before.view(2, -1)[1:]) == 0
    assert peak_of_new_tensors(lambda: before.add_(1)) == 0
    assert peak_of_new_tensors(lambda: before + 1) == 8 * 1024


def test_tensors_count_until_nothing_refers_to_them():
    before = kib(1)

    def chain():
        x = before
        for _ in range(5):
            x = x + 1
        return x

    def kept():
        return [before + i for i in range(5)]

    # While a sum is made, the one that it is made of is still there.
    assert peak_of_new_tensors(chain) == 2 * 1024
    assert peak_of_new_tensors(kept) == 5 * 1024


def test_a_view_keeps_its_storage_and_adds_none():
    before = kib(4)

    def views():
        whole = before * 2
        part = whole[:10].reshape(2, 5)
        del whole
        return part + before[:10].reshape(2, 5)

    assert peak_of_new_tensors(views) == 4 * 1024 + 40


def test_layers_hold_what_enters_and_what_leaves():
    widths = (100, 300, 200, 50)
    layers = [nn.Linear(a, b, bias=False).requires_grad_(False) for a, b in pairwise(widths)]
    x = torch.rand(7, 100)

    def run():
        y = x
        for layer in layers:
            y = layer(y)
        return y

    assert peak_of_new_tensors(run) == 4 * 7 * (300 + 200)


def test_it_works_inside_inference_mode():
    x = kib(2)
    with torch.inference_mode():
        assert peak_of_new_tensors(lambda: x + 1) == 2 * 1024


def test_memory_grows_with_the_batch_and_adds_up():
    found = values_of(measured(tiny_model(), batch_sizes=(1, 4)))
    for batch in (1, 4):
        images = 4 * batch * 3 * 32 * 32 / MIB
        total = found["weight_memory", None] + images + found["activation_memory", batch]
        assert found["working_memory", batch] == pytest.approx(total)
        assert ("peak_memory", batch) not in found
    assert found["activation_memory", 4] == pytest.approx(4 * found["activation_memory", 1], rel=0.02)


def test_what_no_clock_tells_is_the_same_twice():
    first, second = (
        {row.metric: row for row in measured(tiny_model()).result() if row.counted != "repetitions"} for _ in range(2)
    )
    assert first == second
    timed = {row.metric for row in measured(tiny_model()).result() if row.counted == "repetitions"}
    assert timed - {"other_load"} == TIMED - {"other_load"}


def test_the_precision_is_that_of_the_run():
    seen = []

    class Watched(TinyModel):
        def outputs(self, images, want):
            seen.append((torch.is_autocast_enabled("cpu"), torch.is_grad_enabled(), tuple(images.shape)))
            return super().outputs(images, want)

    model = Watched(shape=TinyShape(), label_space="sample", seed=0)
    measured(model, batch_sizes=(2,), precision="bf16")
    assert {autocast for autocast, _, _ in seen} == {True}
    assert {gradients for _, gradients, _ in seen} == {False}
    assert {shape[0] for _, _, shape in seen} == {1, 2}
    seen.clear()
    measured(model, batch_sizes=(2,))
    assert {autocast for autocast, _, _ in seen} == {False}


class _Small(TinyModel):
    """A model whose machine holds few images."""

    def __init__(self, most):
        super().__init__(shape=TinyShape(), label_space="sample", seed=0)
        self._most = most

    def outputs(self, images, want):
        if len(images) > self._most:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return super().outputs(images, want)


def test_a_batch_that_does_not_fit_is_named_with_those_that_do():
    with pytest.raises(HarnessError, match="a batch of 16 images does not fit") as refused:
        measured(_Small(4), batch_sizes=(16, 4, 1))
    assert refused.value.hint == "1 and 4 fit: give batch_sizes=1+4"
    with pytest.raises(HarnessError, match="a batch of 2 images") as refused:
        measured(_Small(1), batch_sizes=(2,))
    assert refused.value.hint == "give smaller batch_sizes"


def test_other_errors_are_passed_on():
    class Broken(TinyModel):
        def outputs(self, images, want):
            if len(images) > 1:
                raise RuntimeError("shapes disagree")
            return super().outputs(images, want)

    with pytest.raises(RuntimeError, match="shapes disagree"):
        measured(Broken(shape=TinyShape(), label_space="sample", seed=0))


# --- time ------------------------------------------------------------------------------------------------------


class _Clock:
    """A clock that only passes move."""

    def __init__(self, durations):
        self.now = 0.0
        self._durations = iter(durations)

    def perf_counter(self):
        return self.now

    def run(self):
        self.now += next(self._durations)


@contextmanager
def clock_of(monkeypatch, durations):
    clock = _Clock(durations)
    with monkeypatch.context() as patched:
        patched.setattr(timed_passes, "time", clock)
        yield clock


def test_a_round_lasts_as_long_as_it_must(monkeypatch):
    with clock_of(monkeypatch, [0.2, 0.2, 0.2, 0.6, 0.1, 0.5]) as clock:
        found = timed_rounds({1: clock.run}, rounds=3, round_seconds=0.5, device=CPU)[1]
    assert found.seconds == pytest.approx([0.2, 0.2, 0.2, 0.6, 0.1, 0.5])
    assert found.rounds.tolist() == [0, 0, 0, 1, 2, 2]
    assert found.round_medians == pytest.approx([0.2, 0.6, 0.3])
    assert found.spread == pytest.approx(2.0)


def test_batch_sizes_take_turns():
    order = []
    timed_rounds({1: lambda: order.append(1), 8: lambda: order.append(8)}, rounds=3, round_seconds=0.0, device=CPU)
    assert order == [1, 8, 1, 8, 1, 8]


def test_rates_and_latencies_follow_from_the_durations():
    seconds = np.array([0.1, 0.1, 0.4, 0.2, 0.2, 0.2, 0.5])
    found = {row.metric: row for row in timing(8, Passes(seconds=seconds, rounds=np.array([0, 0, 0, 1, 1, 1, 2])))}
    latency, rate = found["latency"], found["throughput"]
    assert latency.value == pytest.approx(200)
    assert (latency.low, latency.high) == pytest.approx(tuple(1000 * np.quantile(seconds, [0.1, 0.9])))
    assert latency.n == 7
    assert (rate.low, rate.value, rate.high) == pytest.approx((16, 40, 80))
    assert rate.n == 3
    assert found["timing_spread"].value == pytest.approx(4.0)
    assert {row.counted for row in found.values()} == {"repetitions"}


def test_warm_up_is_not_counted():
    calls = []

    class Counting(TinyModel):
        def outputs(self, images, want):
            calls.append(len(images))
            return super().outputs(images, want)

    model = Counting(shape=TinyShape(), label_space="sample", seed=0)
    run = measured(model, batch_sizes=(3,), rounds=4, warm_up=5)
    # Beside them one pass is for the memory; that for the MACs is of a single image.
    assert calls.count(3) == 5 + 1 + 4
    assert len(run.arrays()["seconds.3"]) == 4
    assert run.arrays()["rounds.3"].tolist() == [0, 1, 2, 3]


def test_the_images_are_a_ramp():
    image = ramp(8, CPU)
    assert image.shape == (1, 3, 8, 8)
    assert image.flatten().tolist() == pytest.approx(np.linspace(0, 1, 192).tolist())


def counters(busy, idle):
    return f"cpu  {busy} 0 0 {idle} 0 0 0 0 0 0\ncpu0 0 0 0 0\n"


def test_load_by_others_is_what_this_process_did_not_have(monkeypatch, tmp_path):
    file = tmp_path / "stat"
    monkeypatch.setattr(machine_load, "_COUNTERS", file)
    file.write_text(counters(1000, 5000))
    before = machine_load.read()
    file.write_text(counters(1000 + 300, 5000))
    after = machine_load.read()
    ticks = machine_load.os.sysconf("SC_CLK_TCK")
    assert after.busy - before.busy == pytest.approx(300 / ticks)
    cores = machine_load.os.cpu_count()
    first = machine_load.Reading(clock=0.0, busy=10.0, own=1.0)
    last = machine_load.Reading(clock=10.0, busy=10.0 + 4.0 * cores, own=1.0 + 1.0 * cores)
    assert machine_load.other_load(first, last) == pytest.approx(0.3)
    assert machine_load.other_load(first, replace(last, busy=10.0)) == 0.0
    assert machine_load.other_load(first, first) is None


@pytest.mark.parametrize("text", [None, "", "intr 1 2 3\n", "cpu  1 x 2 3\n", "cpu 1 2\n"])
def test_load_is_not_known_where_nothing_counts_it(monkeypatch, tmp_path, text):
    file = tmp_path / "stat"
    if text is not None:
        file.write_text(text)
    monkeypatch.setattr(machine_load, "_COUNTERS", file)
    assert machine_load.read() is None
    assert machine_load.other_load(None, None) is None
    assert ("other_load", None) not in rows_of(measured(tiny_model(), batch_sizes=(1,)))


# --- pictures and tables ---------------------------------------------------------------------------------------


def made_up(name, *, parameters=5.0, macs=1.2, rates=((1, 30.0), (16, 50.0)), spread=0.02, device="Some CPU", **more):
    def row(metric, value, **given):
        return Measurement(metric=metric, value=value, n=6, **given)

    rows = [
        row("parameters", parameters),
        row("macs", macs),
        row("flops", 2 * macs),
        row("weight_memory", 4 * parameters),
        *([row("other_load", more["load"])] if "load" in more else []),
    ]
    for batch, rate in rates:
        dims = {"batch": batch}
        rows += [
            row("activation_memory", 2.0 * batch, dims=dims),
            row("working_memory", 2.0 * batch + 4 * parameters, dims=dims),
            *([row("peak_memory", 9.0 * batch, dims=dims)] if more.get("cuda") else []),
            row("latency", 1000 * batch / rate, low=1.0, high=1e6, interval="p10_p90", dims=dims),
            row("throughput", rate, low=0.9 * rate, high=1.05 * rate, interval="range", dims=dims),
            row("timing_spread", spread, dims=dims),
        ]
    cell = {"view": "resize=256,crop=224,interpolation=bilinear", "precision": "fp32", "weights": "random:x"}
    environment = {"device": "cpu", "device_name": device, "threads": 2, "versions": {"torch": "2.9"}}
    record = ResultRecord(key=name, cell=cell, measurements=tuple(rows), environment=environment)
    return Finding(record=record, model=name, condition="none")


def words(figure):
    found = [text.get_text() for axes in figure.axes for text in axes.texts]
    found += [label.get_text() for axes in figure.axes for label in axes.get_yticklabels()]
    for axes in figure.axes:
        found += [cell.get_text().get_text() for table in axes.tables for cell in table.get_celld().values()]
    return [*found, figure._supxlabel.get_text()]


def test_a_real_finding_is_drawn():
    run = measured(tiny_model())
    record = replace(made_up("tiny").record, measurements=tuple(run.result()))
    made = exhibit([Finding(record=record, model="tiny", condition="none", arrays=run.arrays())])
    assert list(made.pictures) == ["", "table"]
    assert [row[6] for row in made.tables[""].rows] == [1, 16]


def test_the_papers_columns_have_macs_for_flops():
    made = exhibit([made_up("a"), made_up("b", macs=4.1, parameters=25.6, cuda=True)])
    header, rows = made.tables["papers"].header, made.tables["papers"].rows
    first, second = (dict(zip(header, row, strict=True)) for row in rows)
    assert (second["FLOPs (B)"], second["params (M)"], second["res"], second["batch"]) == (4.1, 25.6, 224, 16)
    assert (first["memory (MiB)"], first["memory of"]) == (2.0 * 16 + 20, "tensors")
    assert (second["memory (MiB)"], second["memory of"]) == (9.0 * 16, "allocator")
    assert (first["im/s"], first["noisy"]) == (50.0, False)
    assert first["machine"] == "Some CPU, 2 threads, torch 2.9, fp32"


def test_every_number_of_every_model_stands_in_the_table():
    made = exhibit([made_up("a"), made_up("b", rates=((1, 3.0), (16, 4.0), (64, 5.0)))])
    header, rows = made.tables[""].header, made.tables[""].rows
    assert [(row[0], row[6]) for row in rows] == [("a", 1), ("a", 16), ("b", 1), ("b", 16), ("b", 64)]
    row = dict(zip(header, rows[1], strict=True))
    assert (row["images_per_s"], row["slowest_round"], row["fastest_round"]) == (50.0, 45.0, 52.5)
    assert (row["macs_billion"], row["flops_billion"], row["peak_memory_mib"]) == (1.2, 2.4, None)


def test_a_noisy_machine_is_named():
    quiet, noisy, loaded = made_up("a"), made_up("b", spread=0.4), made_up("c", load=0.55)
    assert [noise(finding) for finding in (quiet, noisy, loaded)] == pytest.approx([0.02, 0.4, 0.55])
    for picture in exhibit([quiet, noisy, loaded]).pictures.values():
        note = words(picture)[-1]
        assert "noisy for models 2, 3" in note
        assert "40 % apart" in note
        assert "55 % of it" in note
    assert "noisy" not in words(exhibit([quiet]).pictures[""])[-1]


def test_machines_are_told_apart():
    note = words(exhibit([made_up("a"), made_up("b", device="Other"), made_up("c")]).pictures[""])[-1]
    assert "Some CPU, 2 threads, torch 2.9, fp32: 1, 3" in note
    assert "Other, 2 threads, torch 2.9, fp32: 2" in note


def test_many_models_are_all_drawn_and_numbered_throughout():
    names = [f"model {i}" for i in range(1, 46)]
    findings = [made_up(name, macs=0.1 * 1.2**i, rates=((4, 900 / 1.1**i),)) for i, name in enumerate(names)]
    made = exhibit(findings)
    assert list(made.pictures) == ["", "table", "table2"]
    assert [f"{i}  {name}" for i, name in enumerate(names, start=1)] == [
        text for text in words(made.pictures[""]) if "model" in text and "  " in text
    ]
    assert [name for page in ("table", "table2") for name in words(made.pictures[page]) if name in names] == names
    assert "41" in words(made.pictures["table2"])


def test_models_that_cost_the_same_share_a_label():
    made = exhibit([made_up("a"), made_up("b"), made_up("c", macs=30.0, rates=((1, 2.0), (16, 3.0)))])
    labels = [text.get_text() for text in made.pictures[""].axes[0].texts]
    assert sorted(labels) == ["1, 2", "3"]


@pytest.mark.parametrize("others", [[], [("b", 2.0)]])
def test_a_model_that_multiplies_nothing_is_shown(others):
    made = exhibit([made_up("a", macs=0.0, parameters=0.0), *(made_up(name, macs=macs) for name, macs in others)])
    axes = made.pictures[""].axes[0]
    made.pictures[""].canvas.draw()
    low, high = axes.get_xlim()
    assert low < 0 < high
