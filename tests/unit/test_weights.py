"""Weights: the choice, what may be missing, and the identity."""

import hashlib
import importlib.metadata
import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness.errors import UsageError, WeightsError
from harness.weights import WeightsChoice, allowing, file_digest, identify, parse_weights


@pytest.fixture(autouse=True)
def _own_cache(monkeypatch, tmp_path):
    monkeypatch.setenv("HARNESS_CACHE_DIR", str(tmp_path / "cache"))


def aged(path: Path, seconds: float = 60) -> Path:
    then = time.time() - seconds
    os.utime(path, (then, then))
    return path


# --- the choice ------------------------------------------------------------------------------------------------


def test_parse_reads_the_three_choices(tmp_path):
    file = tmp_path / "x.pth"
    file.write_bytes(b"1")
    assert parse_weights("pretrained") == WeightsChoice(origin="pretrained")
    assert parse_weights("random") == WeightsChoice(origin="random", seed=0)
    assert parse_weights("random:17") == WeightsChoice(origin="random", seed=17)
    assert parse_weights(str(file)) == WeightsChoice(origin="checkpoint", path=file)


@pytest.mark.parametrize("text", ["nowhere/x.pth", "Pretrained", "random:", "random:x", "random:-1", "."])
def test_parse_names_what_is_no_file_and_lists_the_choices(text):
    with pytest.raises(WeightsError) as caught:
        parse_weights(text)
    assert text in caught.value.message
    assert caught.value.exit_code == 4
    assert all(choice in str(caught.value.hint) for choice in ("pretrained", "random:SEED", "path"))


def test_a_file_called_like_a_seed_is_still_a_path(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("random:abc").write_bytes(b"1")
    assert parse_weights("random:abc").path == Path("random:abc")


@given(st.integers(0, 2**63 - 1))
def test_every_seed_survives_the_spelling(seed):
    assert parse_weights(f"random:{seed}").seed == seed


def test_a_choice_that_contradicts_itself_is_refused():
    with pytest.raises(WeightsError):
        WeightsChoice(origin="checkpoint")
    with pytest.raises(WeightsError):
        WeightsChoice(origin="random", seed=2**63)


# --- what may be missing ---------------------------------------------------------------------------------------


def test_patterns_are_kept_once_and_in_order(tmp_path):
    file = tmp_path / "x.pth"
    file.write_bytes(b"1")
    choice = parse_weights(str(file), allow_missing=["head.*", "a.?", "head.*"])
    assert choice == WeightsChoice(origin="checkpoint", path=file, allow_missing=("head.*", "a.?"))
    assert allowing(choice, ["b"]).allow_missing == ("head.*", "a.?", "b")
    assert allowing(WeightsChoice(), "head.*").allow_missing == ("head.*",), "one pattern is not a list of letters"


@pytest.mark.parametrize("pattern", ["", "head.*,norm.*", "head.* norm.*", "a;b", "a\n"])
def test_what_is_no_pattern_is_refused(pattern):
    with pytest.raises(UsageError, match="once for each") as caught:
        WeightsChoice(allow_missing=(pattern,))
    assert caught.value.exit_code == 2


def test_random_weights_miss_nothing():
    for text in ("random", "random:3"):
        with pytest.raises(UsageError, match="nothing is loaded"):
            parse_weights(text, allow_missing=["head.*"])


def test_what_may_be_missing_is_part_of_the_identity(tmp_path):
    file = tmp_path / "x.npz"
    file.write_bytes(b"abc")
    versions = f"torch-{importlib.metadata.version('torch')}:timm-{importlib.metadata.version('timm')}"
    for text, plain in ((str(file), f"sha256:{hashlib.sha256(b'abc').hexdigest()}"), ("pretrained", "pretrained:a.b")):
        one = identify(parse_weights(text, allow_missing=["head.*", "a.*"]), use="vit", tag="a.b")
        other = identify(parse_weights(text, allow_missing=["a.*", "head.*"]), use="vit", tag="a.b")
        none = identify(parse_weights(text), use="vit", tag="a.b")
        assert one.identity == other.identity == f"{plain};allow-missing=a.*,head.*;initial=0:{versions}"
        assert none.identity == plain
        assert (one.origin, one.sha256) == (none.origin, none.sha256)
        assert str(one.source).startswith(str(none.source))
        assert "a.*, head.*" in str(one.source)
        assert "seed 0" in str(one.source)


def test_embedded_weights_are_whole():
    with pytest.raises(UsageError, match="come with its plugin"):
        identify(WeightsChoice(allow_missing=("head.*",)), use="mini", embedded="mini:1")


# --- identity --------------------------------------------------------------------------------------------------


def test_identities(tmp_path):
    file = tmp_path / "x.npz"
    file.write_bytes(b"abc")
    digest = hashlib.sha256(b"abc").hexdigest()
    pretrained = identify(WeightsChoice(), use="vit", tag="vit_tiny.augreg")
    assert (pretrained.identity, pretrained.origin) == ("pretrained:vit_tiny.augreg", "pretrained")
    checkpoint = identify(parse_weights(str(file)), use="vit", tag="vit_tiny.augreg")
    assert (checkpoint.identity, checkpoint.sha256) == (f"sha256:{digest}", digest)
    random = identify(parse_weights("random:5"), use="vit", tag="vit_tiny.augreg")
    versions = f"torch-{importlib.metadata.version('torch')}:timm-{importlib.metadata.version('timm')}"
    assert random.identity == f"random:vit_tiny.augreg:5:{versions}"
    assert random.untrained
    assert not pretrained.untrained
    assert identify(WeightsChoice(), use="mini", embedded="mini-shapes-1").identity == "embedded:mini-shapes-1"
    with pytest.raises(WeightsError, match="no pretrained weights"):
        identify(WeightsChoice(), use="bare")


def test_identity_needs_no_torch():
    code = (
        "import sys\n"
        "from harness.weights import identify, parse_weights\n"
        "identify(parse_weights('random:1'), use='vit', tag='a.b')\n"
        "identify(parse_weights(sys.argv[1]), use='vit', tag='a.b')\n"
        "print(sorted({'torch', 'timm', 'numpy', 'safetensors'} & set(sys.modules)))\n"
    )
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(part for part in sys.path if part)}
    done = subprocess.run(
        [sys.executable, "-c", code, __file__], env=environment, capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "[]"


def test_the_digest_is_remembered_until_the_file_changes(tmp_path, monkeypatch):
    file = tmp_path / "x.bin"
    file.write_bytes(b"one")
    aged(file)
    assert file_digest(file) == hashlib.sha256(b"one").hexdigest()
    entry = next((tmp_path / "cache" / "digests").iterdir())
    forged = {**json.loads(entry.read_text()), "sha256": "f" * 64}
    entry.write_text(json.dumps(forged))
    assert file_digest(file) == "f" * 64, "the second call must not read the file"
    file.write_bytes(b"two")
    assert file_digest(file) == hashlib.sha256(b"two").hexdigest()
    file.write_bytes(b"three")
    aged(file)
    assert file_digest(file) == hashlib.sha256(b"three").hexdigest()


@pytest.mark.parametrize("rubbish", [b"", b"{", b"[]", b'{"sha256": 3}', b"\xff\xfe", b"null"])
def test_a_corrupt_digest_cache_is_rebuilt(tmp_path, rubbish):
    file = tmp_path / "x.bin"
    file.write_bytes(b"one")
    aged(file)
    expected = file_digest(file)
    entry = next((tmp_path / "cache" / "digests").iterdir())
    entry.write_bytes(rubbish)
    assert file_digest(file) == expected
    assert json.loads(entry.read_text())["sha256"] == expected


def test_a_file_changed_just_now_is_not_remembered(tmp_path):
    file = tmp_path / "x.bin"
    file.write_bytes(b"one")
    file_digest(file)
    assert not list((tmp_path / "cache").rglob("*.json"))


def test_an_unwritable_cache_costs_time_only(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("HARNESS_CACHE_DIR", str(tmp_path / "file"))
    file = tmp_path / "x.bin"
    file.write_bytes(b"one")
    assert file_digest(aged(file)) == hashlib.sha256(b"one").hexdigest()


def test_a_missing_checkpoint_is_named(tmp_path):
    with pytest.raises(WeightsError, match="gone"):
        file_digest(tmp_path / "gone.pth")
