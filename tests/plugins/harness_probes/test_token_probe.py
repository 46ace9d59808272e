"""What probes on frozen features have alike: the ensemble, and a support thinned by class."""

from __future__ import annotations

import numpy as np
import pytest

from harness.errors import CapabilityError, ParameterError
from harness.types import FeatureSpec
from harness_probes.centroid_probe import CentroidProbe
from harness_probes.fewshot_probe import FewShotProbe
from harness_probes.knn_probe import KnnProbe
from harness_probes.linear_probe import LinearProbe
from harness_probes.retrieval_probe import RetrievalProbe
from harness_probes.token_probe import spread_over_classes


def test_so_many_support_images_of_every_class_are_taken_spread_over_the_split():
    labels = np.array([0, 1, 0, 0, 1, 0, 0, 2])
    for probe in (CentroidProbe(per_class=2), RetrievalProbe(per_class=2, k=(1, 3)), KnnProbe(per_class=2, k=(1, 3))):
        assert probe.select_support(labels, 0).tolist() == [0, 1, 3, 4, 7]
        assert probe.info.params["per_class"] == 2
    for kind in (CentroidProbe, RetrievalProbe, KnnProbe):
        with pytest.raises(ParameterError):
            kind(per_class=0)


def test_without_a_limit_or_labels_every_position_is_taken():
    assert spread_over_classes(np.array([3, 3, 1]), None).tolist() == [0, 1, 2]
    assert spread_over_classes(np.empty(0, np.int64), 2).tolist() == []
    assert spread_over_classes(np.array([3, 3, 1]), 9).tolist() == [0, 1, 2]


def test_a_model_without_the_tokens_of_the_ensemble_is_refused(card):
    probe = FewShotProbe(features="last")
    assert FewShotProbe().features(card()) == FeatureSpec(pooled=True)
    with pytest.raises(CapabilityError):
        probe.features(card())
    with pytest.raises(CapabilityError):
        probe.wants(card())


def test_one_value_from_python_is_a_list_of_one():
    assert KnnProbe(k=1).info.params["k"] == [1]
    assert FewShotProbe(shots=5).info.params["shots"] == [5]
    assert RetrievalProbe(k=3).info.params["k"] == [3]
    assert LinearProbe(c=1.0).info.params["c"] == [1.0]


def test_a_penalty_that_would_tie_all_classes_is_refused():
    with pytest.raises(ParameterError, match="ridge_lambda"):
        FewShotProbe(ridge_lambda=1e15)
