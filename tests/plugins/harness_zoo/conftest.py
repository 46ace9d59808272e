"""No test here sees the caches of the machine, or the network; and what the tests of all architectures share."""

import pytest
import torch

from harness.testing import run_checks
from harness.testing.kit import Subject
from harness.weights import WeightsChoice


@pytest.fixture(autouse=True)
def _own_caches(monkeypatch, tmp_path):
    monkeypatch.setenv("HARNESS_CACHE_DIR", str(tmp_path / "cache"))
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hf"))
    monkeypatch.delenv("HF_HUB_CACHE", raising=False)
    monkeypatch.setenv("HARNESS_OFFLINE", "1")


@pytest.fixture
def saved(tmp_path):
    """``saved(content, name)``: a file of torch's with ``content``, as authors' scripts write it."""

    def save(content, name="weights.pth"):
        path = tmp_path / name
        torch.save(content, path)
        return path

    return save


@pytest.fixture
def from_address(monkeypatch):
    """``from_address(path)``: every address gives the file at ``path``; the value lists what was asked for."""
    asked = []

    def serve(path):
        def url_file(url, *, sha256=None):
            asked.append((url, sha256))
            return path

        monkeypatch.setattr("harness.url_weights.url_file", url_file)
        return asked

    return serve


@pytest.fixture
def findings():
    """``findings(entry, build, plugin)``: what the whole contract kit finds against a model with random weights."""

    def find(entry, build, plugin):
        subject = Subject(
            entry=entry, make=lambda: build(weights=WeightsChoice(origin="random")), params={}, plugin=plugin
        )
        outcomes = run_checks(subject)
        assert sum(outcome.status == "passed" for outcome in outcomes) > 20
        return {outcome.check: outcome.message for outcome in outcomes if outcome.status == "failed"}

    return find
