"""The head probe: exact counts however batched and merged, one row per head, no number without shared classes."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.numpy import load, save
from sklearn.metrics import top_k_accuracy_score

from harness.errors import CapabilityError, DataError
from harness.params import coerce
from harness.protocols import FittedProbe, Probe, ProbeContext, ProbeRun
from harness.types import ModelOutputs, OutputSpec
from harness_probes.head import HeadParams, harness_register_probes
from harness_probes.head_probe import HeadProbe

N, CLASSES = 40, 10
DISTILLED = ("average", "cls", "dist")


def context(model, classes: int = CLASSES, label_space: str | None = "digits") -> ProbeContext:
    return ProbeContext(model=model, classes=[f"c{c}" for c in range(classes)], label_space=label_space, seed=0)


def logits(seed: int, n: int = N, classes: int = CLASSES) -> torch.Tensor:
    return torch.randn(n, classes, generator=torch.Generator().manual_seed(seed))


def labels(seed: int = 5, classes: int = CLASSES) -> list[int]:
    return np.random.default_rng(seed).integers(0, classes, N).tolist()


def run_over(run, batch, scores: dict[str, torch.Tensor], truth, pieces) -> ProbeRun:
    for rows in map(list, pieces):
        part = ModelOutputs(logits={head: values[rows] for head, values in scores.items()})
        run.update(batch([truth[row] for row in rows], rows), part, None)
    return run


def test_it_keeps_the_contracts(card):
    probe = HeadProbe()
    fitted = probe.fit(None, context(card()))
    assert isinstance(probe, Probe)
    assert isinstance(fitted, FittedProbe)
    assert isinstance(fitted.start(), ProbeRun)
    assert (probe.info.learns, probe.features(card()), len(probe.select_support(np.arange(3), 0))) == (False, None, 0)
    assert probe.wants(card()) == OutputSpec(logits=True)


def test_the_descriptor_agrees_with_the_probe():
    (entry,) = harness_register_probes()
    assert (entry.name, entry.aliases, entry.learns, entry.needs_label_space) == ("head", ("top1",), False, True)
    probe = HeadProbe(head=coerce(HeadParams, {"head": "cls"}, "head").head)
    assert (probe.info.name, probe.info.version, probe.info.params) == (entry.name, entry.version, {"head": "cls"})


def test_top1_and_top5_equal_scikit_learn(card, batch):
    scores, truth = logits(0), labels()
    run = run_over(HeadProbe().fit(None, context(card())).start(), batch, {"head": scores}, truth, [range(N)])
    top1, top5 = run.result()
    assert (top1.metric, top5.metric, dict(top1.dims), top1.n) == ("top1", "top5", {}, N)
    for row, k in ((top1, 1), (top5, 5)):
        assert row.value == top_k_accuracy_score(truth, scores.numpy(), k=k, labels=range(CLASSES))
        assert row.low < row.value < row.high
        assert row.interval == "wilson95"


def test_outcomes_hold_every_prediction(card, batch):
    scores, truth = logits(0), labels()
    run = run_over(HeadProbe().fit(None, context(card())).start(), batch, {"head": scores}, truth, [range(N)])
    outcomes = run.outcomes()
    predicted = scores.numpy().argmax(axis=1)
    np.testing.assert_array_equal(outcomes.columns["prediction"], predicted[None])
    np.testing.assert_array_equal(outcomes.columns["correct"], (predicted == truth)[None])
    assert outcomes.columns["prediction"].dtype == np.int32
    assert outcomes.variants == ({},)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=30)
@given(st.permutations(range(N)), st.integers(1, N), st.integers(0, N))
def test_batching_order_merging_and_resuming_change_nothing(card, batch, order, size, cut):
    scores, truth = {head: logits(i) for i, head in enumerate(DISTILLED)}, labels()
    fitted = HeadProbe().fit(None, context(card(heads=DISTILLED)))
    whole = run_over(fitted.start(), batch, scores, truth, [range(N)])
    batches = [order[i : i + size] for i in range(0, N, size)]
    left = run_over(fitted.start(), batch, scores, truth, batches[:cut])
    right = run_over(fitted.start(), batch, scores, truth, batches[cut:])
    resumed = fitted.start()
    resumed.load_state_dict(load(save(left.state_dict())))
    resumed.merge(right)
    assert resumed.result() == whole.result()


def test_a_distilled_model_has_one_row_per_head_the_default_first(card, batch):
    scores, truth = {head: logits(i) for i, head in enumerate(DISTILLED)}, labels()
    fitted = HeadProbe().fit(None, context(card(heads=DISTILLED)))
    rows = run_over(fitted.start(), batch, scores, truth, [range(N)]).result()
    top1 = [row for row in rows if row.metric == "top1"]
    assert [row.dims["head"] for row in top1] == list(DISTILLED)
    for row in top1:
        assert row.value == (scores[row.dims["head"]].argmax(1) == torch.tensor(truth)).double().mean().item()
    assert len({row.value for row in top1}) > 1
    outputs = ModelOutputs(logits=scores)
    assert torch.equal(fitted.scores(outputs), scores["average"])


def test_one_head_of_several_can_be_chosen(card, batch):
    scores, truth = {head: logits(i) for i, head in enumerate(DISTILLED)}, labels()
    fitted = HeadProbe(head="dist").fit(None, context(card(heads=DISTILLED)))
    rows = run_over(fitted.start(), batch, scores, truth, [range(N)]).result()
    assert [(row.metric, row.dims["head"]) for row in rows] == [("top1", "dist"), ("top5", "dist")]
    assert torch.equal(fitted.scores(ModelOutputs(logits=scores)), scores["dist"])


@pytest.mark.parametrize(("classes", "metrics"), [(5, ["top1"]), (6, ["top1", "top5"])])
def test_top5_needs_more_than_five_classes(card, batch, classes, metrics):
    fitted = HeadProbe().fit(None, context(card(num_classes=classes), classes))
    scores = {"head": logits(0, classes=classes)}
    run = run_over(fitted.start(), batch, scores, labels(classes=classes), [range(N)])
    assert [row.metric for row in run.result()] == metrics


def test_scores_are_differentiable(card):
    values = logits(0).requires_grad_()
    HeadProbe().fit(None, context(card())).scores(ModelOutputs(logits={"head": values})).sum().backward()
    assert torch.equal(values.grad, torch.ones_like(values))


@pytest.mark.parametrize(
    ("model_space", "data_space"), [("imagenet1k", "digits"), (None, "digits"), ("digits", None), (None, None)]
)
def test_other_label_spaces_never_become_a_number(card, model_space, data_space):
    with pytest.raises(CapabilityError, match="the dataset's are those of"):
        HeadProbe().fit(None, context(card(label_space=model_space), label_space=data_space))


def test_another_number_of_classes_is_refused(card):
    with pytest.raises(CapabilityError, match="scores 10 classes, the dataset has 9"):
        HeadProbe().fit(None, context(card(), classes=9))


def test_a_model_without_a_head_or_without_that_head_is_refused(card):
    with pytest.raises(CapabilityError, match="no classifier"):
        HeadProbe().wants(card(heads=()))
    with pytest.raises(CapabilityError, match="no head named 'dits'") as caught:
        HeadProbe(head="dits").wants(card(heads=DISTILLED))
    assert caught.value.hint == "did you mean dist?"


def test_logits_that_are_not_finite_are_an_error_naming_the_images(card, batch):
    scores = logits(0, n=3)
    scores[2, 4] = float("nan")
    run = HeadProbe().fit(None, context(card())).start()
    with pytest.raises(DataError, match="image-9"):
        run.update(batch([0, 1, 2], [3, 5, 9]), ModelOutputs(logits={"head": scores}), None)
    with pytest.raises(DataError, match="no images"):
        run.result()


def test_half_precision_logits_are_read_as_they_are(card, batch):
    scores = logits(0).to(torch.bfloat16)
    truth = scores.float().argmax(dim=1).tolist()
    run = run_over(HeadProbe().fit(None, context(card())).start(), batch, {"head": scores}, truth, [range(N)])
    assert run.result()[0].value == 1.0
