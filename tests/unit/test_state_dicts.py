"""State dicts: reading files of strangers, and loading them strictly or with named exceptions."""

import argparse
import io
import os
import pickle
import zipfile
from collections import OrderedDict, defaultdict
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import save_file
from torch import nn

from harness.errors import WeightsError
from harness.state_dicts import Loaded, check_container, example_pattern, load_strict, read_state_dict

DATA = Path(__file__).resolve().parents[2].parent / "shared" / "data" / "weights"


def small_net() -> nn.Module:
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Flatten(), nn.Linear(4, 2))


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


@pytest.mark.parametrize("empty", [None, {}])
def test_a_wrapper_without_weights_is_passed_over(tmp_path, empty):
    torch.save({"model": {"a": torch.ones(1)}, "model_ema": empty, "teacher": empty}, tmp_path / "x.pth")
    assert set(read_state_dict(tmp_path / "x.pth")) == {"a"}


BACKBONE = {
    "cls_token": torch.randn(1, 1, 4),
    "blocks.0.attn.qkv.weight": torch.randn(12, 4),
    "norm.bias": torch.ones(4),
}
PROJECTION = {"mlp.0.weight": torch.randn(8, 4), "last_layer.weight_g": torch.ones(9, 1)}


def self_distilled(before=""):
    """A full checkpoint of DINO's training script, with what it keeps beside the networks."""
    network = {f"{before}backbone.{name}": value for name, value in BACKBONE.items()}
    network |= {f"{before}head.{name}": value for name, value in PROJECTION.items()}
    optimizer = torch.optim.AdamW([nn.Parameter(torch.ones(2))], lr=1e-3)
    return {
        "student": {f"module.{name}": torch.zeros_like(value) for name, value in network.items()},
        "teacher": network,
        "optimizer": optimizer.state_dict(),
        "epoch": 800,
        "args": argparse.Namespace(arch="deit_small", patch_size=16, lr=5e-4, output_dir="out", crops=(0.4, 1.0)),
        "dino_loss": OrderedDict(center=torch.zeros(1, 9)),
        "fp16_scaler": {"scale": 65536.0, "growth_factor": 2.0},
    }


@pytest.mark.parametrize("before", ["", "module."])
def test_of_a_self_distilled_teacher_the_network_keeps_its_own_names(tmp_path, before):
    torch.save(self_distilled(before), tmp_path / "full.pth")
    read = read_state_dict(tmp_path / "full.pth")
    assert set(read) == {*BACKBONE, *(f"head.{name}" for name in PROJECTION)}
    assert all(torch.equal(read[name], value) for name, value in BACKBONE.items()), "the student is another network"


def test_a_teacher_whose_names_would_meet_is_left_as_it_is(tmp_path):
    names = {"backbone.head.weight", "head.weight"}
    torch.save({"teacher": {name: torch.ones(1) for name in names}}, tmp_path / "x.pth")
    assert set(read_state_dict(tmp_path / "x.pth")) == names


def test_a_backbone_outside_a_teacher_is_nobodys_wrapper(tmp_path):
    torch.save({"model": {"backbone.a": torch.ones(1), "head.b": torch.ones(1)}}, tmp_path / "x.pth")
    assert set(read_state_dict(tmp_path / "x.pth")) == {"backbone.a", "head.b"}


NUMBERS = (np.float64(76.5), np.float32(76.5), np.float16(0.5), np.int64(-3), np.uint8(3), np.bool_(True))


@pytest.mark.parametrize("old_format", [False, True])
@pytest.mark.parametrize("name", ["checkpoint.pth", "checkpoint.pth.tar", "checkpoint.th"])
def test_a_training_checkpoint_of_a_cnn_is_read(tmp_path, name, old_format):
    net = small_net()
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1, momentum=0.9)
    sum(parameter.sum() for parameter in net.parameters()).backward()
    optimizer.step()
    checkpoint = {
        "epoch": 60,
        "arch": "resnet50",
        "state_dict": {f"module.{key}": value for key, value in net.state_dict().items()},
        "best_prec1": torch.tensor(76.5),
        "best_prec5": np.float64(93.1),
        "numbers": NUMBERS,
        "types": [np.dtype("float32"), np.dtype("int64")],
        "optimizer": optimizer.state_dict(),
    }
    torch.save(checkpoint, tmp_path / name, _use_new_zipfile_serialization=not old_format)
    read = read_state_dict(tmp_path / name)
    assert all(torch.equal(read[key], value) for key, value in net.state_dict().items())
    assert len(read) == len(net.state_dict())


def test_numbers_written_under_the_other_numpy_are_read(tmp_path):
    raw = io.BytesIO()
    torch.save({"state_dict": {"a": torch.ones(1)}, "best": np.float64(1.5)}, raw)
    names = {b"numpy._core.multiarray", b"numpy.core.multiarray"}
    (here,) = (name for name in names if name in raw.getvalue())
    (there,) = names - {here}
    with zipfile.ZipFile(raw) as given, zipfile.ZipFile(tmp_path / "x.pth", "w") as made:
        for entry in given.namelist():
            made.writestr(entry, given.read(entry).replace(here, there))
    assert there in (tmp_path / "x.pth").read_bytes()
    assert set(read_state_dict(tmp_path / "x.pth")) == {"a"}


class Holder:
    """A class of somebody's training script."""


@pytest.mark.parametrize(
    "extra",
    [
        Path("x"),
        defaultdict(list),
        np.ones(3),
        np.array([None], dtype=object),
        os.getcwd,
        argparse.ArgumentParser,
        argparse.Namespace(inner=Holder()),
        range(3),
    ],
    ids=lambda extra: type(extra).__name__,
)
def test_everything_else_beside_the_tensors_stays_refused(tmp_path, extra):
    torch.save({"model": {"a": torch.ones(1)}, "args": extra}, tmp_path / "x.pth")
    with pytest.raises(WeightsError, match="could run code"):
        read_state_dict(tmp_path / "x.pth")


def test_reading_leaves_the_allowances_of_torch_as_they_were(tmp_path):
    torch.save({"model": {"a": torch.ones(1)}, "args": argparse.Namespace()}, tmp_path / "x.pth")
    before = set(torch.serialization.get_safe_globals())
    read_state_dict(tmp_path / "x.pth")
    assert set(torch.serialization.get_safe_globals()) == before
    with pytest.raises(pickle.UnpicklingError):
        torch.load(tmp_path / "x.pth", weights_only=True)


def test_a_prefix_that_not_all_names_have_stays(tmp_path):
    torch.save({"module.a": torch.zeros(1), "b": torch.zeros(1)}, tmp_path / "x.pth")
    assert set(read_state_dict(tmp_path / "x.pth")) == {"module.a", "b"}


class Bomb:
    def __reduce__(self):
        return (os.mkdir, ("exploded",))


def test_a_pickle_that_would_run_code_is_refused(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    torch.save({"a": Bomb()}, tmp_path / "bomb.pth")
    torch.save({"model": {"a": torch.ones(1)}, "args": argparse.Namespace(lr=Bomb())}, tmp_path / "hidden.pth")
    (tmp_path / "plain.bin").write_bytes(pickle.dumps(Bomb()))
    np.savez(tmp_path / "bomb.npz", a=np.array([Bomb()], dtype=object))
    for name in ("bomb.pth", "hidden.pth", "plain.bin", "bomb.npz"):
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
    net[1].running_var.fill_(5)
    state = {name: value for name, value in small_net().state_dict().items() if "running_var" not in name}
    with pytest.raises(WeightsError, match="running_var"):
        load_strict(net, state, source="x", allow_missing=["*.weight"])
    loaded = load_strict(net, state, source="x", allow_missing=["*.running_var"])
    assert loaded == Loaded(kept=("1.running_var",))
    assert (net[1].running_var == 5).all()
    assert torch.equal(net[0].weight, state["0.weight"])


def test_what_may_be_missing_may_be_on_either_side():
    net, state = small_net(), small_net().state_dict()
    before = net[3].weight.detach().clone()
    del state["3.weight"], state["3.bias"]
    state |= {"head.mlp.weight": torch.ones(2), "head.last.bias": torch.ones(2)}
    loaded = load_strict(net, state, source="x", allow_missing=["head.*", "3.*"])
    assert loaded == Loaded(kept=("3.weight", "3.bias"), left_out=("head.mlp.weight", "head.last.bias"))
    assert torch.equal(net[3].weight, before)
    assert torch.equal(net[0].weight, state["0.weight"])
    assert torch.equal(net[1].running_mean, state["1.running_mean"])
    assert load_strict(net, small_net().state_dict(), source="x") == Loaded()


def test_a_pattern_excuses_no_shape_and_no_other_name():
    net, state = small_net(), small_net().state_dict()
    state["3.weight"] = torch.zeros(7, 4)
    del state["0.bias"]
    state["fc.bias"] = torch.zeros(1)
    with pytest.raises(WeightsError) as caught:
        load_strict(net, state, source="x", allow_missing=["3.*", "fc.*"])
    assert "1 missing: 0.bias" in caught.value.message
    assert "3.weight (7, 4) instead of (2, 4)" in caught.value.message
    assert "unexpected" not in caught.value.message
    assert "--allow-missing '0.bias'" in str(caught.value.hint)


def test_a_pattern_that_matches_nothing_is_a_slip_and_near_names_are_told():
    net, state = small_net(), small_net().state_dict()
    state["head.projection.weight"] = torch.ones(1)
    with pytest.raises(WeightsError, match=r"'haed\.\*' matches no name") as caught:
        load_strict(net, state, source="x", allow_missing=["haed.*"])
    assert "did you mean head" in str(caught.value.hint)
    assert "on one side only: head.projection.weight" in str(caught.value.hint)
    with pytest.raises(WeightsError, match="matches no name") as caught:
        load_strict(net, small_net().state_dict(), source="x", allow_missing=["qqq.*"])
    assert caught.value.hint == "every name is on both sides"
    before = net[0].weight.detach().clone()
    with pytest.raises(WeightsError, match=r"norm"):
        load_strict(net, state, source="x", allow_missing=["head.*", "norm.*"])
    assert torch.equal(net[0].weight, before)


def test_where_nothing_would_be_loaded_it_is_no_loading():
    net = small_net()
    with pytest.raises(WeightsError, match="no name in common with Sequential: nothing would be loaded"):
        load_strict(net, {"fc.weight": torch.ones(1)}, source="x", allow_missing=["*"])


def test_the_error_shows_how_to_allow_it():
    state = small_net().state_dict() | {"head.0.weight": torch.ones(1), "head.1.weight": torch.ones(1)}
    with pytest.raises(WeightsError, match="2 unexpected") as caught:
        load_strict(small_net(), state, source="x")
    assert "--allow-missing 'head.*'" in str(caught.value.hint)
    state = small_net().state_dict() | {"3.bias": torch.ones(9)}
    with pytest.raises(WeightsError, match="1 of another shape") as caught:
        load_strict(small_net(), state, source="x")
    assert "--allow-missing" not in str(caught.value.hint), "no pattern helps against another shape"


@given(st.lists(st.from_regex(r"[a-z]{1,3}(\.[a-z]{1,3}){0,3}", fullmatch=True), min_size=1, max_size=6, unique=True))
def test_the_example_of_a_pattern_matches_one_of_the_names(names):
    import fnmatch

    assert fnmatch.filter(names, example_pattern(names))


def test_of_a_full_checkpoint_of_dino_the_backbone_is_loaded(tmp_path):
    class Backbone(nn.Module):
        def __init__(self):
            super().__init__()
            self.cls_token = nn.Parameter(torch.zeros(1, 1, 4))
            self.blocks = nn.ModuleList([nn.ModuleDict({"attn": nn.ModuleDict({"qkv": nn.Linear(4, 12, bias=False)})})])
            self.norm = nn.Module()
            self.norm.bias = nn.Parameter(torch.zeros(4))

    torch.save(self_distilled(), tmp_path / "full.pth")
    net, state = Backbone(), read_state_dict(tmp_path / "full.pth")
    with pytest.raises(WeightsError, match="2 unexpected: head") as caught:
        load_strict(net, state, source="full.pth")
    assert "--allow-missing 'head.*'" in str(caught.value.hint)
    loaded = load_strict(net, state, source="full.pth", allow_missing=["head.*"])
    assert loaded == Loaded(left_out=tuple(f"head.{name}" for name in PROJECTION))
    assert all(torch.equal(net.state_dict()[name], value) for name, value in BACKBONE.items())


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


def test_old_weights_without_counters_of_batches_load():
    """As PyTorch itself takes them; nothing else that is missing passes with them."""
    net = nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4))
    state = {name: value + 1 for name, value in net.state_dict().items() if not name.endswith("num_batches_tracked")}
    loaded = load_strict(net, state, source="old.pth")
    assert (loaded.kept, loaded.left_out) == ((), ())
    assert torch.equal(net[1].running_var, state["1.running_var"])
    del state["1.running_mean"]
    with pytest.raises(WeightsError, match=r"2 missing: 1\.running_mean, 1\.num_batches_tracked"):
        load_strict(net, state, source="old.pth")


def test_an_average_of_weights_is_taken_without_its_counter(tmp_path):
    """As torchvision's training reference saves it."""
    net = nn.Linear(2, 3)
    averaged = {f"module.{name}": value for name, value in net.state_dict().items()} | {"n_averaged": torch.tensor(7)}
    torch.save({"model": {"weight": torch.zeros(3, 2)}, "model_ema": averaged, "epoch": 3}, tmp_path / "net.pth")
    assert read_state_dict(tmp_path / "net.pth").keys() == {"weight", "bias"}


def test_a_pattern_that_excuses_nothing_is_refused():
    net = small_net()
    with pytest.raises(WeightsError, match=r"'0\.\*' excuses nothing: what it matches is on both sides"):
        load_strict(net, net.state_dict(), source="x", allow_missing=["0.*"])


def test_the_way_on_is_named_only_where_it_leads_somewhere():
    net, state = small_net(), small_net().state_dict()
    with pytest.raises(WeightsError) as caught:
        load_strict(net, {f"other.{name}": value for name, value in state.items()}, source="x")
    assert "--allow-missing" not in caught.value.hint
    with pytest.raises(WeightsError) as caught:
        load_strict(net, {**dict.fromkeys(state, torch.zeros(9)), "extra": torch.zeros(1)}, source="x")
    assert "--allow-missing" not in caught.value.hint
