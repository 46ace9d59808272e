"""The correlation of clean and perturbed features against SciPy, slow loops and what must hold of any correlation."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import pearsonr

from harness.errors import CapabilityError, DataError, ParameterError
from harness.protocols import ProbeContext
from harness.testing.sample import sample_batch, tiny_model, without
from harness.types import Capability, FeatureSpec, FeatureTable, ModelOutputs
from harness_inspect.class_groups import read_groups
from harness_inspect.correlation import CorrelationParams
from harness_inspect.correlation_exhibit import exhibit
from harness_inspect.correlation_probe import CorrelationProbe
from harness_inspect.pearson import CORRELATIONS, Others, standardised

MODEL = tiny_model()
N, D = 24, 17
LABELS = [i % 10 for i in range(N)]
BATCH = sample_batch(LABELS, side_px=32)
CLASSES = tuple(f"class {c}" for c in range(10))
GENERATOR = np.random.default_rng(3)
CLEAN = GENERATOR.normal(size=(N, D)) + GENERATOR.normal(size=D) * 2
CHANGED = 0.6 * CLEAN + GENERATOR.normal(size=(N, D))


def found(probe, clean=CLEAN, changed=CHANGED, reference=None):
    """Rows by metric and dims, and the columns, of a run over images with these features."""
    rows = np.arange(len(clean)) if reference is None else np.asarray(reference)
    table = FeatureTable(
        x=clean[rows].astype(np.float64),
        y=np.array(LABELS)[rows],
        ids=[BATCH.ids[row] for row in rows],
        spec=FeatureSpec(pooled=True),
    )
    context = ProbeContext(model=MODEL.info, classes=CLASSES, label_space=None, seed=0)
    run = probe.fit(table, context).start()
    after, before = (ModelOutputs(pooled=torch.from_numpy(x).double()) for x in (changed, clean))
    batch = replace(BATCH, images=BATCH.images[: len(clean)])
    run.update(batch, after, before)
    measured = {(row.metric, *row.dims.values()): row for row in run.result()}
    return measured, run.outcomes().columns


@pytest.fixture(autouse=True)
def exact(monkeypatch):
    """``extract`` gives float32, which would hide what is compared here."""
    monkeypatch.setattr("harness_inspect.correlation_probe.extract", lambda outputs, spec, info: outputs.pooled)


def test_each_image_has_scipys_correlation():
    _, columns = found(CorrelationProbe())
    expected = [pearsonr(u, v).statistic for u, v in zip(CLEAN, CHANGED, strict=True)]
    np.testing.assert_allclose(columns["correlation"][0], expected, atol=1e-6)


def test_centring_takes_the_mean_of_the_reference_from_both():
    reference = [0, 3, 4, 9, 20]
    _, columns = found(CorrelationProbe(), reference=reference)
    mean = CLEAN[reference].mean(axis=0)
    expected = [pearsonr(u - mean, v - mean).statistic for u, v in zip(CLEAN, CHANGED, strict=True)]
    np.testing.assert_allclose(columns["correlation_centred"][0], expected, atol=1e-6)


@pytest.mark.parametrize("reference", [range(N), [0, 3, 4, 9, 20]])
@pytest.mark.parametrize("centred", [False, True])
def test_the_floor_pairs_each_image_with_every_other_of_the_reference(reference, centred):
    _, columns = found(CorrelationProbe(), reference=list(reference))
    mean = CLEAN[list(reference)].mean(axis=0) if centred else 0
    expected = [
        np.mean([pearsonr(CLEAN[j] - mean, CHANGED[i] - mean).statistic for j in reference if j != i]) for i in range(N)
    ]
    column = columns["correlation_centred_floor" if centred else "correlation_floor"][0]
    np.testing.assert_allclose(column, expected, atol=1e-6)


def test_over_the_images_each_dimension_has_scipys_correlation():
    rows, _ = found(CorrelationProbe(axis="per_dim"))
    expected = [pearsonr(CLEAN[:, d], CHANGED[:, d]).statistic for d in range(D)]
    assert rows["correlation",].value == pytest.approx(np.mean(expected), abs=1e-5)
    assert rows["correlation_sd",].value == pytest.approx(np.std(expected), abs=1e-5)
    assert rows["correlation",].n == D
    assert rows["correlation",].counted == "dimensions"
    assert rows["correlation",].low is None


def test_over_the_images_the_floor_is_that_of_all_mismatched_pairs():
    rows, _ = found(CorrelationProbe(axis="per_dim"))
    u, v = ((x - x.mean(axis=0)) / x.std(axis=0) for x in (CLEAN, CHANGED))
    slow = [np.mean([u[i, d] * v[j, d] for i in range(N) for j in range(N) if i != j]) for d in range(D)]
    assert rows["correlation_floor",].value == pytest.approx(np.mean(slow), abs=1e-5)


def test_means_and_deviations_are_those_of_the_images():
    rows, columns = found(CorrelationProbe())
    for kind in CORRELATIONS:
        values = columns[kind][0].astype(np.float64)
        assert rows[kind,].value == pytest.approx(values.mean())
        assert rows[f"{kind}_sd",].value == pytest.approx(values.std())
        assert rows[kind,].low <= rows[kind,].value <= rows[kind,].high
    assert rows["correlation",].unit == "correlation"


@settings(max_examples=30, deadline=None)
@given(scale=st.floats(1e-3, 1e3), shift=st.floats(-100, 100))
def test_scale_and_shift_of_a_vector_change_nothing(scale, shift):
    np.testing.assert_allclose((standardised(CLEAN) * standardised(scale * CLEAN + shift)).sum(axis=1), 1.0, atol=1e-6)


def test_a_thing_correlates_with_itself_by_one():
    rows, columns = found(CorrelationProbe(), changed=CLEAN)
    assert (columns["correlation"] == 1).all()
    assert rows["correlation",].value == 1
    assert rows["correlation_sd",].value == pytest.approx(0, abs=1e-9)
    assert (columns["correlation_centred"] == 1).all()


def test_untrained_features_that_share_a_mean_have_a_high_floor_and_none_once_centred():
    shared = 50 * GENERATOR.normal(size=D)
    clean = shared + GENERATOR.normal(size=(N, D))
    changed = shared + GENERATOR.normal(size=(N, D))
    rows, _ = found(CorrelationProbe(), clean=clean, changed=changed)
    assert rows["correlation",].value > 0.99
    assert rows["correlation_floor",].value > 0.99
    assert abs(rows["correlation_centred",].value) < 0.2


def test_constant_features_have_no_correlation_and_are_counted():
    changed = CHANGED.copy()
    changed[[2, 5]] = 0.25
    rows, columns = found(CorrelationProbe(), changed=changed)
    assert np.flatnonzero(np.isnan(columns["correlation"][0])).tolist() == [2, 5]
    assert rows["undefined",].value == 2
    assert rows["correlation",].n == N - 2
    rows, _ = found(CorrelationProbe(), changed=np.zeros_like(CHANGED))
    assert [metric for metric, *_ in rows] == ["undefined"]


def test_dimensions_that_never_vary_are_left_out():
    clean, changed = CLEAN.copy(), CHANGED.copy()
    clean[:, 4] = 1.5
    changed[:, 6] = -2
    rows, _ = found(CorrelationProbe(axis="per_dim"), clean=clean, changed=changed)
    assert rows["correlation",].n == D - 2
    assert rows["undefined",].value == 2


def test_a_unit_that_leaps_from_next_to_nothing_is_left_out_and_stops_no_run():
    clean, changed = np.abs(CLEAN), np.abs(CHANGED)
    clean[:, 3] = 0
    clean[4, 3] = 0.06
    changed[9, 3] = 1e3
    rows, _ = found(CorrelationProbe(axis="per_dim"), clean=clean, changed=changed)
    expected = [pearsonr(clean[:, d], changed[:, d]).statistic for d in range(D) if d != 3]
    assert rows["undefined",].value == 1
    assert rows["correlation",].n == D - 1
    assert rows["correlation",].value == pytest.approx(np.mean(expected), abs=1e-5)


def test_a_row_for_every_class_and_for_every_group(tmp_path):
    rows, columns = found(CorrelationProbe(by="class"))
    third = [i for i, label in enumerate(LABELS) if label == 3]
    assert rows["correlation_of_class", "class 3"].value == pytest.approx(columns["correlation"][0][third].mean())
    assert rows["correlation_of_class", "class 3"].n == len(third)
    file = tmp_path / "groups.csv"
    file.write_text("class,group\n" + "".join(f"class {c},{'low' if c < 4 else 'high'}\n" for c in range(10)))
    rows, columns = found(CorrelationProbe(by="group", groups=str(file)))
    low = [i for i, label in enumerate(LABELS) if label < 4]
    assert rows["correlation_of_group", "low"].value == pytest.approx(columns["correlation"][0][low].mean())
    assert rows["correlation_of_group", "low"].n + rows["correlation_of_group", "high"].n == N


def test_the_reference_is_spread_over_the_images_and_heeds_no_label():
    probe = CorrelationProbe(reference_images=4)
    labels = np.arange(10) % 3
    assert probe.select_support(labels, 0).tolist() == [0, 2, 5, 7]
    assert probe.select_support(labels[::-1].copy(), 1).tolist() == [0, 2, 5, 7]
    assert CorrelationProbe().select_support(labels, 0).tolist() == list(range(10))


def test_a_lonely_image_has_no_floor():
    others = Others.of(CLEAN[:1], BATCH.ids[:1])
    own = standardised(CLEAN[:1])
    assert np.isnan(others.correlations(own, own, BATCH.ids[:1])).all()


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("class\nclass 0\n", "no column group"),
        ("class,group\nclass 99,a\n", "line 2: the dataset has no class 'class 99'"),
        ("class,group\nclass 0,a\nclass 0,b\n", "line 3: class 'class 0' is named twice"),
        ("class,group\nclass 0,\n", "line 2: class 'class 0' has no group"),
        ("class,group\nclass 0,a\n", "no group for the classes class 1, class 2"),
    ],
)
def test_groups_that_cannot_be_are_refused_with_their_line(tmp_path, text, said):
    file = tmp_path / "groups.csv"
    file.write_text(text)
    with pytest.raises(DataError, match=said):
        read_groups(str(file), CLASSES)


def test_what_the_file_of_groups_says_is_part_of_the_key_and_its_place_is_not(tmp_path):
    from harness.params import identity

    files = [tmp_path / name for name in ("a.csv", "b.csv", "c.csv")]
    for file, group in zip(files, ("x", "x", "y"), strict=True):
        file.write_text(f"class,group\nclass 0,{group}\n")
    one, same, other = (identity(CorrelationParams(by="group", groups=str(file))) for file in files)
    assert one == same != other
    with pytest.raises(ParameterError, match="has the digest"):
        CorrelationParams(by="group", groups=str(files[0]), groups_sha256="0" * 64)


def test_a_file_of_groups_that_is_not_there_is_refused(tmp_path):
    with pytest.raises(DataError, match="cannot be read"):
        CorrelationProbe(by="group", groups=str(tmp_path / "nowhere.csv"))
    with pytest.raises(DataError, match="cannot be read"):
        read_groups(str(tmp_path / "nowhere.csv"), CLASSES)


@pytest.mark.parametrize(
    "given", [{"axis": "per_dim", "by": "class"}, {"by": "group"}, {"groups": "x.csv"}, {"features": "cls/0/what"}]
)
def test_parameters_that_contradict_each_other_are_refused(given):
    with pytest.raises(ParameterError):
        CorrelationProbe(**given)


def test_a_model_without_the_features_is_refused():
    with pytest.raises(CapabilityError):
        CorrelationProbe().wants(without(MODEL.info, frozenset({Capability.POOLED})))
    with pytest.raises(CapabilityError):
        CorrelationProbe(features="shape/last").wants(MODEL.info)


def test_features_that_are_not_finite_name_their_image():
    changed = CHANGED.copy()
    changed[7, 3] = np.inf
    with pytest.raises(DataError, match=BATCH.ids[7]):
        found(CorrelationProbe(), changed=changed)


def test_pictures_are_there_for_means_images_and_classes(finding_of):
    made = exhibit([finding_of(CorrelationProbe(by="class"), model=name) for name in ("a", "b")])
    assert set(made.pictures) == {"", "images", "class"}
    kinds = {row[2] for row in made.tables[""].rows}
    assert {"correlation", "correlation_floor_of_class", "correlation_centred_sd"} <= kinds


def test_lines_join_the_levels_of_a_perturbation_and_nothing_else(finding_of):
    one = finding_of(CorrelationProbe())
    clean, low, high, other = (
        replace(one, condition=condition, level=level)
        for condition, level in (("none", None), ("drop@0.2", 0.2), ("drop@0.4", 0.4), ("shuffle", None))
    )

    def joined(*findings):
        lines = exhibit(findings).pictures[""].axes[0].lines
        return sorted(len(line.get_xdata()) for line in lines if line.get_marker() == "o")

    assert joined(clean, low, high) == [3]
    assert joined(clean, low, high, other) == [1, 1, 2]
    assert joined(clean, other) == [1, 1]


def test_deviations_that_reach_beyond_one_are_drawn_in_full(finding_of):
    one = finding_of(CorrelationProbe())
    rows = tuple(replace(row, value=0.5) if row.metric.endswith("_sd") else row for row in one.record.measurements)
    rows = tuple(replace(row, value=0.8, low=0.8, high=0.8) if row.metric == "correlation" else row for row in rows)
    made = exhibit([replace(one, record=replace(one.record, measurements=rows))])
    assert made.pictures[""].axes[0].get_ylim()[1] > 1.3
