"""The head probe: exact counts however batched and merged, one row per head and metric, no number of other classes."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.numpy import load, save
from sklearn.metrics import balanced_accuracy_score, log_loss, top_k_accuracy_score

import harness
from harness.errors import CapabilityError, DataError, HarnessError, ParameterError
from harness.label_maps import find_label_map
from harness.params import coerce
from harness.protocols import FittedProbe, Probe, ProbeContext, ProbeRun
from harness.types import ModelOutputs, OutputSpec, View
from harness_probes.head import HeadParams, harness_register_probes
from harness_probes.head_probe import HeadProbe

N, CLASSES = 40, 10
DISTILLED = ("average", "cls", "dist")
METRICS = ["top1", "top5", "mean_class_accuracy", "nll", "ece", "adaptive_ece", "brier"]


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
    params = coerce(HeadParams, {"head": "cls", "bins": "20"}, "head")
    probe = HeadProbe(head=params.head, bins=params.bins)
    assert (probe.info.name, probe.info.version) == (entry.name, entry.version) == ("head", 2)
    assert probe.info.params == {"head": "cls", "bins": 20}
    assert HeadProbe().info.params == {"head": None, "bins": 15}


@pytest.mark.parametrize("bins", [0, 2.5, 1001])
def test_bins_that_are_none_are_refused(bins):
    with pytest.raises(ParameterError, match="bins"):
        HeadProbe(bins=bins)


def test_top1_and_top5_equal_scikit_learn(card, batch):
    scores, truth = logits(0), labels()
    run = run_over(HeadProbe().fit(None, context(card())).start(), batch, {"head": scores}, truth, [range(N)])
    top1, top5 = run.result()[:2]
    assert (top1.metric, top5.metric, dict(top1.dims), top1.n) == ("top1", "top5", {}, N)
    for row, k in ((top1, 1), (top5, 5)):
        assert row.value == top_k_accuracy_score(truth, scores.numpy(), k=k, labels=range(CLASSES))
        assert row.low < row.value < row.high
        assert row.interval == "wilson95"


def test_the_other_metrics_equal_scikit_learn_and_slow_loops(card, batch):
    scores, truth = logits(0), [label % 7 for label in labels()]
    run = run_over(HeadProbe().fit(None, context(card())).start(), batch, {"head": scores}, truth, [range(N)])
    rows = {row.metric: row for row in run.result()}
    assert list(rows) == METRICS
    assert all(row.n == N and row.dims == {} for row in rows.values())
    probabilities = scores.double().softmax(dim=1).numpy()
    predicted = probabilities.argmax(axis=1)
    # Three classes have no images: the mean is over the seven that have.
    per_class = rows["mean_class_accuracy"]
    recalls = [np.mean(predicted[np.array(truth) == c] == c) for c in range(7)]
    assert per_class.value == pytest.approx(np.mean(recalls), rel=1e-12)
    with pytest.warns(UserWarning, match="y_pred contains classes not in y_true"):
        assert per_class.value == pytest.approx(balanced_accuracy_score(truth, predicted), rel=1e-12)
    assert (per_class.interval, per_class.higher_is_better) == ("bootstrap95", True)
    assert 0 <= per_class.low < per_class.value < per_class.high <= 1
    assert rows["nll"].value == pytest.approx(log_loss(truth, probabilities, labels=range(CLASSES)), rel=1e-6)
    squared = ((probabilities - np.eye(CLASSES)[truth]) ** 2).sum(axis=1)
    assert rows["brier"].value == pytest.approx(squared.mean(), rel=1e-6)
    gap = 0.0
    for low in range(15):
        inside = np.ceil(probabilities.max(axis=1) * 15) == low + 1
        gap += abs((predicted[inside] == np.array(truth)[inside]).sum() - probabilities.max(axis=1)[inside].sum()) / N
    assert rows["ece"].value == pytest.approx(gap, rel=1e-6)


def test_bins_change_the_calibration_errors_alone(card, batch):
    scores, truth = logits(0), labels()

    def rows(**options):
        fitted = HeadProbe(**options).fit(None, context(card()))
        return run_over(fitted.start(), batch, {"head": scores}, truth, [range(N)]).result()

    changed = [a.metric for a, b in zip(rows(), rows(bins=4), strict=True) if a != b]
    assert changed == ["ece", "adaptive_ece"]
    assert rows() == rows(bins=15)


def test_one_image_has_no_interval_but_wilsons(card, batch):
    fitted = HeadProbe().fit(None, context(card()))
    run = run_over(fitted.start(), batch, {"head": logits(0)}, labels(), [range(1)])
    assert [row.metric for row in run.result() if row.interval] == ["top1", "top5"]


def test_outcomes_hold_every_prediction(card, batch):
    scores, truth = logits(0), labels()
    run = run_over(HeadProbe().fit(None, context(card())).start(), batch, {"head": scores}, truth, [range(N)])
    outcomes = run.outcomes()
    predicted = scores.numpy().argmax(axis=1)
    np.testing.assert_array_equal(outcomes.columns["prediction"], predicted[None])
    np.testing.assert_array_equal(outcomes.columns["correct"], (predicted == truth)[None])
    assert outcomes.columns["prediction"].dtype == np.int32
    probabilities = scores.double().softmax(dim=1).numpy()
    np.testing.assert_allclose(outcomes.columns["confidence"], probabilities.max(axis=1)[None], rtol=1e-6)
    np.testing.assert_allclose(outcomes.columns["nll"], -np.log(probabilities[range(N), truth])[None], rtol=1e-6)
    assert {outcomes.columns[name].dtype for name in ("confidence", "nll", "brier")} == {np.dtype(np.float32)}
    assert outcomes.variants == ({},)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=30, deadline=None)
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
    for name, column in whole.outcomes().columns.items():
        np.testing.assert_array_equal(resumed.outcomes().columns[name], column)


def test_a_state_counts_the_images_of_every_class(card, batch):
    scores, truth = {head: logits(i) for i, head in enumerate(DISTILLED)}, labels()
    fitted = HeadProbe().fit(None, context(card(heads=DISTILLED)))
    run = run_over(fitted.start(), batch, scores, truth, [range(N)])
    state = run.state_dict()
    assert state["class_images"].tolist() == [truth.count(c) for c in range(CLASSES)]
    for v, head in enumerate(DISTILLED):
        right = [label for label, found in zip(truth, scores[head].argmax(1).tolist(), strict=True) if label == found]
        assert state["class_correct"][v].tolist() == [right.count(c) for c in range(CLASSES)]
    kept = state["class_images"].copy()
    run.update(batch([0], [N]), ModelOutputs(logits={head: values[:1] for head, values in scores.items()}), None)
    np.testing.assert_array_equal(state["class_images"], kept)


def test_a_state_of_another_version_or_other_classes_is_refused(card, batch):
    run = HeadProbe().fit(None, context(card())).start()
    old = {name: array for name, array in run.state_dict().items() if not name.startswith("class_")}
    other = HeadProbe().fit(None, context(card(num_classes=9), classes=9)).start().state_dict()
    for state in (old, other):
        with pytest.raises(HarnessError, match="a state of head needs counts of 10 classes and 1 heads"):
            run.load_state_dict(state)


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
    assert [(row.metric, row.dims["head"]) for row in rows] == [(metric, "dist") for metric in METRICS]
    assert torch.equal(fitted.scores(ModelOutputs(logits=scores)), scores["dist"])


@pytest.mark.parametrize(("classes", "there"), [(5, False), (6, True)])
def test_top5_needs_more_than_five_classes(card, batch, classes, there):
    fitted = HeadProbe().fit(None, context(card(num_classes=classes), classes))
    scores = {"head": logits(0, classes=classes)}
    run = run_over(fitted.start(), batch, scores, labels(classes=classes), [range(N)])
    assert [row.metric for row in run.result()] == [metric for metric in METRICS if there or metric != "top5"]


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


# --- label maps ------------------------------------------------------------------------------------------------

SIXTEEN = find_label_map("imagenet1k", "imagenet16")
SUBSET = find_label_map("imagenet1k", "imagenet_a")


def mapped(card, label_space: str, classes: int | None = None, **options) -> FittedProbe:
    names = {"imagenet16": SIXTEEN.classes}.get(label_space, [f"n{c:08d}" for c in range(classes or 200)])
    model = card(num_classes=1000, label_space="imagenet1k", **options)
    return HeadProbe().fit(None, ProbeContext(model=model, classes=names, label_space=label_space, seed=0))


def test_a_subset_is_read_from_its_own_logits(card, batch):
    scores = 4 * logits(0, classes=1000)
    truth = labels(classes=200)
    run = run_over(mapped(card, "imagenet_a").start(), batch, {"head": scores}, truth, [range(N)])
    chosen = scores[:, [index for (index,) in SUBSET.groups]].double()
    rows = {row.metric: row.value for row in run.result()}
    np.testing.assert_array_equal(run.outcomes().columns["prediction"][0], chosen.argmax(dim=1).numpy())
    probabilities = chosen.softmax(dim=1).numpy()
    assert rows["nll"] == pytest.approx(log_loss(truth, probabilities, labels=range(200)), rel=1e-6)
    assert rows["brier"] == pytest.approx(((probabilities - np.eye(200)[truth]) ** 2).sum(axis=1).mean(), rel=1e-6)


def test_the_16_categories_are_decided_by_mean_probabilities(card, batch):
    scores = 4 * logits(0, classes=1000)
    truth = labels(classes=16)
    run = run_over(mapped(card, "imagenet16").start(), batch, {"head": scores}, truth, [range(N)])
    probabilities = scores.double().softmax(dim=1).numpy()
    means = np.array([[row[list(group)].mean() for group in SIXTEEN.groups] for row in probabilities])
    np.testing.assert_array_equal(run.outcomes().columns["prediction"][0], means.argmax(axis=1))
    shares = means / means.sum(axis=1, keepdims=True)
    rows = {row.metric: row.value for row in run.result()}
    assert rows["nll"] == pytest.approx(-np.log(shares[range(N), truth]).mean(), rel=1e-5)
    assert rows["top5"] == top_k_accuracy_score(truth, shares, k=5, labels=range(16))


def test_mapped_scores_are_those_of_the_default_head_and_differentiable(card):
    values = {head: logits(i, n=3, classes=1000).requires_grad_() for i, head in enumerate(DISTILLED)}
    scores = mapped(card, "imagenet16", heads=DISTILLED).scores(ModelOutputs(logits=values))
    assert torch.equal(scores, SIXTEEN.apply(values["average"]))
    scores[:, 0].sum().backward()
    assert values["average"].grad.abs().sum() > 0


def test_mapped_classes_must_be_as_many_and_in_their_order(card):
    with pytest.raises(CapabilityError, match="scores 200 classes of imagenet_a, the dataset has 199"):
        mapped(card, "imagenet_a", classes=199)
    model = card(num_classes=1000, label_space="imagenet1k")
    turned = ProbeContext(model=model, classes=SIXTEEN.classes[::-1], label_space="imagenet16", seed=0)
    with pytest.raises(CapabilityError, match="in another order") as caught:
        HeadProbe().fit(None, turned)
    assert "airplane, bear, bicycle" in caught.value.hint


def test_the_hint_names_what_an_imagenet_head_can_be_read_in(card):
    with pytest.raises(CapabilityError) as caught:
        HeadProbe().fit(None, context(card(num_classes=1000, label_space="imagenet1k")))
    assert caught.value.hint.endswith("in the classes of imagenet16, imagenet_a, imagenet_r")


class ReadsIndices(torch.nn.Module):
    """Scores classes of ImageNet by their distance from the index that an image's colour spells."""

    def forward(self, images):
        red, green = (images[:, channel].mean(dim=(1, 2)) * 255 for channel in (0, 1))
        index = 16 * red + green
        return -((torch.arange(1000) - index[:, None]) ** 2) / 100


class Pulls:
    """An attack that notes the shape of the scores it aims at, and that they have a gradient; it changes nothing."""

    def __init__(self):
        self.shapes = []
        self.info = harness.protocols.PerturbationInfo(name="pulls", needs_target=True, keyed=False)

    def prepare(self, context):
        self.target = context.target

    def begin(self, batch):
        with torch.enable_grad():
            images = batch.images.clone().requires_grad_()
            scores = self.target(images)
            (gradient,) = torch.autograd.grad(scores[:, 0].sum(), images)
        self.shapes.append((scores.shape[1], bool(gradient.abs().sum() > 0)))

    def apply(self, batch, state, level):
        return batch


def spelled(folder, indices):
    """One image of each of ImageNet's ``indices`` in ``folder``."""
    from PIL import Image

    folder.mkdir(parents=True)
    for index in indices:
        Image.new("RGB", (8, 8), (index // 16, index % 16, 0)).save(folder / f"{index}.png")


def run_on(root, label_space, tmp_path, **options):
    model = harness.wrap(
        ReadsIndices(),
        name="reads",
        view=View(crop=8),
        mean=(0, 0, 0),
        std=(1, 1, 1),
        label_space="imagenet1k",
    )
    return harness.run(
        model=model,
        dataset=f"folder:label_space={label_space}",
        data=root,
        probe="head",
        out=tmp_path / "out",
        **options,
    )


def predictions(result) -> dict[str, int]:
    from harness.outcome_files import read_outcomes

    stored = read_outcomes(result.path, result.records[0].key)
    return dict(zip(stored.ids, stored.outcomes.columns["prediction"][0].tolist(), strict=True))


def test_a_folder_of_imagenet_a_is_read_from_end_to_end(tmp_path):
    # Stingray is ImageNet's class 6, rapeseed 984, corn 987; 0 (tench) and 8 (hen) are not in the subset.
    shown = {"n01498041": [6, 0, 8], "n11879895": [984], "n12144580": [987, 500]}
    for wnid, indices in shown.items():
        spelled(tmp_path / "root" / wnid, indices)
    attack = Pulls()
    result = run_on(tmp_path / "root", "imagenet_a", tmp_path, perturb=["none", attack])
    members = [index for (index,) in SUBSET.groups]
    found = {file: members[label] for file, label in predictions(result).items()}
    assert found == {
        "n01498041/6.png": 6,
        "n01498041/0.png": 6,
        "n01498041/8.png": 6,
        "n11879895/984.png": 984,
        "n12144580/987.png": 987,
        "n12144580/500.png": 496,
    }
    clean = result.get(perturbation="none")
    assert clean.get("top1").value == 5 / 6
    assert clean.get("mean_class_accuracy").value == pytest.approx((1 + 1 + 1 / 2) / 3)
    assert (clean.cell["label_space"], clean.cell["num_classes"]) == ("imagenet_a", 200)
    assert result.get(perturbation="pulls").get("top1").value == 5 / 6
    assert set(attack.shapes) == {(200, True)}


def test_folders_of_the_16_categories_are_read_from_end_to_end(tmp_path):
    for category, indices in {"truck": [867], "airplane": [404, 499], "dog": [160]}.items():
        spelled(tmp_path / "root" / category, indices)
    attack = Pulls()
    result = run_on(tmp_path / "root", "imagenet16", tmp_path, perturb=["none", attack])
    names = {file: SIXTEEN.classes[label] for file, label in predictions(result).items()}
    assert names == {
        "airplane/404.png": "airplane",
        "airplane/499.png": "knife",
        "dog/160.png": "dog",
        "truck/867.png": "truck",
    }
    assert result.get(perturbation="none").get("top1").value == 3 / 4
    assert set(attack.shapes) == {(16, True)}


def test_other_folders_are_still_refused(tmp_path):
    for name, index in (("one", 1), ("two", 2)):
        spelled(tmp_path / "root" / name, [index])
    with pytest.raises(CapabilityError, match="its scores would not mean these classes") as caught:
        run_on(tmp_path / "root", "digits", tmp_path)
    assert "imagenet16 and imagenet_a and imagenet_r" in caught.value.hint
