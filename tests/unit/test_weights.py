"""Weights: the choice, the identity, reading files of strangers, and loading them strictly."""

import hashlib
import importlib.metadata
import json
import os
import pickle
import subprocess
import sys
import time
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import save_file
from torch import nn

from harness.errors import WeightsError
from harness.weights import (
    WeightsChoice,
    check_container,
    file_digest,
    identify,
    load_strict,
    parse_weights,
    read_state_dict,
)

DATA = Path(__file__).resolve().parents[2].parent / "shared" / "data" / "weights"


@pytest.fixture(autouse=True)
def _own_cache(monkeypatch, tmp_path):
    monkeypatch.setenv("HARNESS_CACHE_DIR", str(tmp_path / "cache"))


def small_net() -> nn.Module:
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Flatten(), nn.Linear(4, 2))


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


# --- reading ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("suffix", [".pth", ".pt", ".th", ".bin", ".pth.tar", ".safetensors", ".npz"])
def test_every_format_gives_the_same_tensors(tmp_path, suffix):
    state = small_net().state_dict()
    file = tmp_path / f"weights{suffix}"
    if suffix == ".safetensors":
        save_file(state, file)
    elif suffix == ".npz":
        np.savez(file, **{name: value.numpy() for name, value in state.items()})
    else:
        torch.save(state, file)
    read = read_state_dict(file)
    assert list(read) == list(state) or suffix == ".safetensors"
    assert set(read) == set(state)
    for name, value in state.items():
        assert torch.equal(read[name], value), name
        assert read[name].dtype == value.dtype


def test_npz_of_the_other_byte_order_is_read(tmp_path):
    values = np.linspace(-1, 1, 7, dtype=">f4")
    np.savez(tmp_path / "x.npz", a=values)
    assert read_state_dict(tmp_path / "x.npz")["a"].tolist() == values.tolist()


def test_the_old_pytorch_format_is_read(tmp_path):
    file = tmp_path / "old.th"
    torch.save(small_net().state_dict(), file, _use_new_zipfile_serialization=False)
    assert set(read_state_dict(file)) == set(small_net().state_dict())


@pytest.mark.parametrize("half", [torch.float16, torch.bfloat16])
def test_half_precision_is_widened_and_integers_are_not(tmp_path, half):
    file = tmp_path / "half.safetensors"
    values = torch.linspace(-3, 3, 50).to(half)
    save_file({"a": values, "n": torch.tensor(3), "d": torch.ones(2, dtype=torch.float64)}, file)
    read = read_state_dict(file)
    assert read["a"].dtype == torch.float32
    assert torch.equal(read["a"], values.to(torch.float32))
    assert read["n"].dtype == torch.int64
    assert read["d"].dtype == torch.float64


@pytest.mark.parametrize(
    "wrap",
    [
        lambda state: {"model": state, "epoch": 3},
        lambda state: {"state_dict": state, "best_prec1": 91.7},
        lambda state: {"state_dict": {f"module.{name}": value for name, value in state.items()}},
        lambda state: {"state_dict": {"model": state}},
        lambda state: {"teacher": state, "student": {}},
        lambda state: {f"_orig_mod.module.{name}": nn.Parameter(value) for name, value in state.items()},
        lambda state: {"state_dict": {"other": torch.zeros(1)}, "state_dict_ema": state},
    ],
)
def test_wrappers_of_authors_are_taken_off(tmp_path, wrap):
    state = {"conv.weight": torch.randn(2, 3), "conv.bias": torch.randn(2)}
    torch.save(wrap(state), tmp_path / "x.pth")
    read = read_state_dict(tmp_path / "x.pth")
    assert set(read) == set(state)
    assert all(torch.equal(read[name], state[name]) for name in state)
    assert not any(value.requires_grad for value in read.values())


def test_a_prefix_that_not_all_names_have_stays(tmp_path):
    torch.save({"module.a": torch.zeros(1), "b": torch.zeros(1)}, tmp_path / "x.pth")
    assert set(read_state_dict(tmp_path / "x.pth")) == {"module.a", "b"}


class Bomb:
    def __reduce__(self):
        return (os.mkdir, ("exploded",))


def test_a_pickle_that_would_run_code_is_refused(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    torch.save({"a": Bomb()}, tmp_path / "bomb.pth")
    (tmp_path / "plain.bin").write_bytes(pickle.dumps(Bomb()))
    np.savez(tmp_path / "bomb.npz", a=np.array([Bomb()], dtype=object))
    for name in ("bomb.pth", "plain.bin", "bomb.npz"):
        with pytest.raises(WeightsError, match=name):
            read_state_dict(tmp_path / name)
    with pytest.raises(WeightsError, match="could run code"):
        read_state_dict(tmp_path / "bomb.pth")
    assert not (tmp_path / "exploded").exists()


@pytest.mark.parametrize("suffix", [".pth", ".safetensors", ".npz"])
@pytest.mark.parametrize(
    ("content", "found"),
    [
        (b"<!DOCTYPE html><html><body>Sign in</body></html>", "HTML page"),
        (b"\n  <html>404</html>", "HTML page"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n", "Git LFS pointer"),
        (b"", "empty"),
    ],
)
def test_foreign_files_are_told_what_they_look_like(tmp_path, suffix, content, found):
    file = tmp_path / f"x{suffix}"
    file.write_bytes(content)
    with pytest.raises(WeightsError, match=found):
        read_state_dict(file)


@pytest.mark.parametrize("suffix", [".pth", ".safetensors", ".npz"])
def test_no_truncation_is_ever_read(tmp_path, suffix):
    state = {"a": torch.randn(40, 40), "b": torch.randn(40)}
    whole = tmp_path / f"whole{suffix}"
    if suffix == ".safetensors":
        save_file(state, whole)
    elif suffix == ".npz":
        np.savez(whole, **{name: value.numpy() for name, value in state.items()})
    else:
        torch.save(state, whole)
    raw = whole.read_bytes()
    check_container(whole)
    part = tmp_path / f"part{suffix}"
    for length in {1, 7, 8, 9, 100, len(raw) // 2, len(raw) - 1}:
        part.write_bytes(raw[:length])
        with pytest.raises(WeightsError, match="part"):
            check_container(part) if suffix != ".pth" or length >= 2 else read_state_dict(part)
        with pytest.raises(WeightsError, match="part"):
            read_state_dict(part)


@settings(max_examples=60, deadline=None)
@given(st.binary(max_size=300), st.sampled_from([".pth", ".safetensors", ".npz"]))
def test_no_bytes_get_past_as_anything_but_a_weights_error(tmp_path_factory, content, suffix):
    file = tmp_path_factory.mktemp("bytes") / f"x{suffix}"
    file.write_bytes(content)
    with pytest.raises(WeightsError):
        read_state_dict(file)


def test_what_is_no_state_dict_is_refused(tmp_path):
    file = tmp_path / "x.pth"
    for value, found in [
        ([1, 2], "list"),
        ({}, "dict"),
        ({"a": torch.zeros(1), "epoch": 3}, "epoch"),
        (torch.ones(1), "Tensor"),
    ]:
        torch.save(value, file)
        with pytest.raises(WeightsError, match=found):
            read_state_dict(file)
    np.savez(tmp_path / "x.npz", a=np.array(["text"]))
    with pytest.raises(WeightsError, match="not an array of numbers"):
        read_state_dict(tmp_path / "x.npz")
    with zipfile.ZipFile(tmp_path / "other.npz", "w") as archive:
        archive.writestr("readme.txt", "hello")
    with pytest.raises(WeightsError, match="other"):
        read_state_dict(tmp_path / "other.npz")
    np.savez(tmp_path / "long.npz", a=np.zeros(2, dtype=np.longdouble))
    with pytest.raises(WeightsError, match="not an array of numbers"):
        read_state_dict(tmp_path / "long.npz")
    (tmp_path / "x.onnx").write_bytes(b"x")
    with pytest.raises(WeightsError, match=r"\.safetensors"):
        read_state_dict(tmp_path / "x.onnx")


# --- loading ---------------------------------------------------------------------------------------------------


def test_strict_loading_copies_every_value():
    net, state = small_net(), small_net().state_dict()
    load_strict(net, state, source="x")
    assert all(torch.equal(value, state[name]) for name, value in net.state_dict().items())


def test_every_disagreement_is_listed_and_nothing_is_copied():
    net = small_net()
    before = {name: value.clone() for name, value in net.state_dict().items()}
    state = small_net().state_dict()
    del state["0.bias"]
    state["fc.weight"] = torch.zeros(1)
    state["3.weight"] = torch.zeros(7, 4)
    with pytest.raises(WeightsError) as caught:
        load_strict(net, state, source="file.pth")
    text = caught.value.message
    assert "file.pth" in text
    assert "1 missing: 0.bias" in text
    assert "1 unexpected: fc.weight" in text
    assert "3.weight (7, 4) instead of (2, 4)" in text
    assert all(torch.equal(value, before[name]) for name, value in net.state_dict().items())


def test_long_lists_are_cut_and_counted():
    state = {f"name{i:02}": torch.zeros(1) for i in range(30)}
    with pytest.raises(WeightsError, match=r"30 unexpected: name00.*name07 and 22 more") as caught:
        load_strict(nn.Identity(), state, source="x")
    assert "name08" not in caught.value.message


def test_only_what_may_be_missing_may_be_missing():
    net = small_net()
    net[1].num_batches_tracked.fill_(5)
    state = {name: value for name, value in small_net().state_dict().items() if "num_batches" not in name}
    with pytest.raises(WeightsError, match="num_batches_tracked"):
        load_strict(net, state, source="x", allow_missing=["*.weight"])
    load_strict(net, state, source="x", allow_missing=["*.num_batches_tracked"])
    assert net[1].num_batches_tracked == 5
    assert torch.equal(net[0].weight, state["0.weight"])


# --- real files ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "count", "dtype"),
    [
        ("vit_tiny_patch16_224_in1k/vit_tiny_patch16_224.augreg_in21k_ft_in1k.fp16.safetensors", 152, torch.float32),
        ("squeezenet1_1_in1k/squeezenet1_1.npz", 52, torch.float32),
        ("resnet20_cifar10/resnet20-12fca82f.th", None, torch.float32),
    ],
)
def test_real_checkpoints_are_read(name, count, dtype):
    if not (DATA / name).is_file():
        pytest.skip(f"real weights {name} are not here")
    state = read_state_dict(DATA / name)
    assert count is None or len(state) == count
    assert {value.dtype for value in state.values()} <= {dtype, torch.int64}
    assert not any(key.startswith("module.") for key in state)
