"""The attacks of torchattacks: the table against the library, every attack run, and what is not let through."""

from __future__ import annotations

import importlib.util
import inspect
import random
import warnings

import numpy as np
import pytest
import torch

import harness
from harness.errors import CapabilityError, DataError, HarnessError, MissingDependencyError, ParameterError
from harness.params import coerce
from harness.targets import load_target
from harness.testing.kit import Subject, run_checks
from harness_attacks import torchattacks_attack as module
from harness_attacks.fgsm import FGSM
from harness_attacks.global_randomness import seeded_globally
from harness_attacks.torchattacks_attack import TorchAttack
from harness_attacks.torchattacks_entries import harness_register_perturbations
from harness_attacks.torchattacks_table import TORCHATTACKS

torchattacks = pytest.importorskip("torchattacks")

LEFT_OUT = {"MultiAttack", "LGV"}
OURS = {"self", "model", "seed", "verbose"}
QUICK = {
    "square": {"n_queries": 40},
    "onepixel": {"steps": 2},
    "pixle": {"restarts": 1, "max_iterations": 2},
    "eadl1": {"max_iterations": 10, "binary_search_steps": 2, "initial_const": 10.0},
    "eaden": {"max_iterations": 10, "binary_search_steps": 2, "initial_const": 10.0},
    "cw": {"steps": 5, "c": 100.0},
    "deepfool": {"steps": 3},
    "sparsefool": {"steps": 2},
    "spsa": {"nb_sample": 8, "max_batch_size": 4},
    "jsma": {"gamma": 0.0005},
    "fab": {"steps": 3, "n_restarts": 2},
    "upgd": {"random_start": True},
}
ENTRIES = {entry.name: entry for entry in harness_register_perturbations()}


@pytest.fixture(autouse=True, scope="module")
def one_thread():
    """Networks this small are quickest on one thread, most of all where others use the machine."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def make(name, **params) -> TorchAttack:
    return load_target(ENTRIES[name])(**params)


def level_of(name):
    return None if ENTRIES[name].level is None else 32.0


# --- the table -------------------------------------------------------------------------------------------------


def test_every_attack_of_the_library_is_there():
    assert {attack.library_name for attack in TORCHATTACKS.values()} == set(torchattacks.__all__) - LEFT_OUT
    assert list(TORCHATTACKS) == [attack.library_name.lower() for attack in TORCHATTACKS.values()] == list(ENTRIES)


@pytest.mark.parametrize("name", TORCHATTACKS)
def test_parameters_and_defaults_are_the_librarys(name):
    attack = TORCHATTACKS[name]
    signature = inspect.signature(getattr(torchattacks, attack.library_name).__init__).parameters
    theirs = {key: given.default for key, given in signature.items() if key not in OURS}
    budget = theirs.pop(attack.budget, None)
    assert (budget is None) == (attack.norm is None)
    if name == "autoattack" or name == "apgdt" or name == "fab":
        assert "n_classes" in theirs
    ours = {item.library_name: item.library_value(item.default) for item in attack.tunables}
    assert ours == theirs


def test_norms_are_those_that_the_library_states():
    for attack in TORCHATTACKS.values():
        text = inspect.getdoc(getattr(torchattacks, attack.library_name))
        stated = {"linf": "Distance Measure : Linf", "l2": "Distance Measure : L2", "chosen": "Linf, L2"}
        if attack.norm is not None:
            assert stated[attack.norm] in text, attack.name
        assert (attack.norm == "chosen") == any(item.name == "norm" for item in attack.tunables)


def test_norm_of_the_budget_follows_the_parameter():
    attack = TORCHATTACKS["apgd"]
    assert [attack.norm_of({"norm": norm}) for norm in ("Linf", "L2")] == ["linf", "l2"]
    assert (TORCHATTACKS["pgdl2"].norm_of({}), TORCHATTACKS["cw"].norm_of({})) == ("l2", None)


@pytest.mark.parametrize("name", ENTRIES)
def test_entries_keep_the_promises_of_entries(name):
    subject = Subject(entry=ENTRIES[name], make=lambda: make(name), plugin="harness_attacks.torchattacks_entries")
    only = {
        "target_imports", "descriptor_is_light", "parameters_declared", "signature_agrees", "special_parameters_exist",
        "protocol_implemented", "facts_agree",
    }  # fmt: skip
    assert {check.check: check.message for check in run_checks(subject, only=only) if check.status != "passed"} == {}


def test_parameters_come_from_a_command_line_too():
    assert coerce(ENTRIES["pixle"].params, {"x_dimensions": "3x7"}, "here").x_dimensions == (3, 7)
    with pytest.raises(ParameterError, match="loss cannot be 'cw'"):
        make("apgd", loss="cw")
    with pytest.raises(TypeError, match="restarts"):
        make("apgd", restarts=2)
    with pytest.raises(AttributeError, match="apgd"):
        module.apgd  # noqa: B018 - the look-up is what is tried


def test_without_the_library_the_extra_is_named(monkeypatch):
    found = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "torchattacks" else found(name))
    with pytest.raises(MissingDependencyError, match="apgd needs torchattacks") as caught:
        load_target(ENTRIES["apgd"])
    assert caught.value.extra == "attacks"


# --- every attack ----------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def states():
    """What the global generators of Python, NumPy and torch are at."""

    def read():
        numpy = np.random.get_state()[1].tolist()  # noqa: NPY002 - what the library draws from
        return random.getstate(), numpy, torch.random.get_rng_state().tolist()

    return read


@pytest.mark.parametrize("name", ENTRIES)
def test_every_attack_runs_within_its_budget_and_leaves_no_trace(
    name, networks, pictures, ready, applied, states, capfd
):
    net, batch, level = networks["conv"], pictures(4, side=32, scores=networks["conv"]), level_of(name)
    before, given = states(), batch.images.clone()
    attack = ready(make(name, **QUICK.get(name, {})), net)
    first = applied(attack, batch, level)
    again = applied(attack, batch, level)
    other = applied(ready(make(name, **QUICK.get(name, {})), net, seed=1), batch, level)
    assert states() == before
    assert torch.equal(batch.images, given)
    assert capfd.readouterr() == ("", "")
    assert torch.equal(first.images, again.images)
    assert torch.equal(first.images, other.images) != ENTRIES[name].stochastic or name in _DECIDED_BEFORE_CHANCE
    assert not first.images.requires_grad
    assert first.images.min() >= 0
    assert first.images.max() <= 1
    change = (first.images - batch.images).double().flatten(1)
    if level is not None:
        order = 2 if TORCHATTACKS[name].norm == "l2" else torch.inf
        assert torch.linalg.vector_norm(change, ord=order, dim=1).max() <= 32 / 255 + 1e-6
        assert first.realised == {}
    else:
        assert torch.allclose(first.realised["linf"], change.abs().amax(dim=1))
        assert torch.allclose(first.realised["l2"], change.norm(dim=1))
    assert (name == "vanila") == torch.equal(first.images, batch.images)


_DECIDED_BEFORE_CHANCE = {"fab"}
"""Attacks that succeed here with what they try first, before anything is drawn."""

STRONG = [
    "fgsm", "bim", "rfgsm", "pgd", "eotpgd", "ffgsm", "tpgd", "mifgsm", "upgd", "apgd", "apgdt", "jitter", "nifgsm",
    "sinifgsm", "vmifgsm", "vnifgsm", "pifgsm", "fab", "autoattack", "cw", "deepfool", "sparsefool", "eadl1", "eaden",
]  # fmt: skip


@pytest.mark.parametrize("name", STRONG)
def test_what_uses_gradients_fools_a_network_that_has_them(name, networks, pictures, ready, applied):
    net, batch = networks["conv"], pictures(6, scores=networks["conv"])
    quick = {key: value for key, value in QUICK.items() if key not in ("deepfool", "sparsefool", "cw")}
    params = {"c": 100.0} if name == "cw" else quick.get(name, {})
    attacked = applied(ready(make(name, **params), net), batch, level_of(name))
    assert (net(attacked.images).argmax(dim=1) != batch.labels).sum() >= 4


@pytest.mark.parametrize("name", sorted(set(ENTRIES) - {"autoattack"}))
def test_images_that_are_wrong_already_and_single_images_are_no_trouble(name, networks, pictures, ready, applied):
    net = networks["conv"]
    right = pictures(2, scores=net)
    wrong = pictures(2, labels=((right.labels + 1) % 10).tolist())
    attack = ready(make(name, **QUICK.get(name, {})), net)
    for batch in (wrong, pictures(1, labels=wrong.labels[:1].tolist()), pictures(1, labels=right.labels[:1].tolist())):
        assert applied(attack, batch, level_of(name)).images.isfinite().all()
    assert len(applied(attack, pictures(0, labels=[]), level_of(name))) == 0


def test_autoattack_leaves_images_alone_that_are_wrong_already(networks, pictures, ready, applied):
    labels = (pictures(3, scores=networks["conv"]).labels + 1) % 10
    batch = pictures(3, labels=labels.tolist())
    assert torch.equal(applied(ready(make("autoattack"), networks["conv"]), batch, 8.0).images, batch.images)


# --- against the library, and against our own ------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "params", "theirs"),
    [
        ("pgd", {"alpha_255": 3, "steps": 4}, {"alpha": 3 / 255, "steps": 4}),
        ("apgd", {"norm": "L2", "loss": "dlr"}, {"norm": "L2", "loss": "dlr"}),
        ("square", {"n_queries": 30}, {"n_queries": 30}),
        ("spsa", {"nb_sample": 8}, {"nb_sample": 8}),
    ],
)
def test_the_result_is_the_librarys_under_the_seed_of_seed_attack_and_ids(
    name, params, theirs, networks, pictures, ready, applied
):
    net, batch, seen = networks["conv"], pictures(4, scores=networks["conv"]), []

    class Victim(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.net = net

        def forward(self, images):
            return self.net(images)

    attack = ready(make(name, **params), net, seed=5)
    found = applied(attack, batch, 16.0)
    seed = attack._seed(attack._context, batch.ids)
    seen.append(seed)
    with seeded_globally(seed):
        more = {"seed": seed} if name in ("apgd", "square") else {}
        expected = getattr(torchattacks, TORCHATTACKS[name].library_name)(Victim(), eps=16 / 255, **theirs, **more)(
            batch.images, batch.labels
        )
    assert torch.equal(found.images, expected)
    assert attack._seed(attack._context, batch.ids[::-1]) != seed


def test_fgsm_is_our_fgsm(networks, pictures, ready, applied):
    for net in networks.values():
        batch = pictures(4)
        ours = applied(ready(FGSM(), net), batch, 4.0).images
        theirs = applied(ready(make("fgsm"), net), batch, 4.0).images
        assert ((ours - theirs).abs() < 1e-6).float().mean() > 0.999


def test_pixle_over_each_try_takes_images_one_by_one(networks, pictures, ready, applied):
    attack = ready(make("pixle", update_each_iteration=True, max_iterations=2), networks["conv"])
    batch = pictures(3)
    assert (applied(attack, batch, None).realised["l2"] > 0).all()


# --- targets and classes ---------------------------------------------------------------------------------------


def linear(classes, side=16):
    weight = torch.randn(classes, 3 * side * side, generator=torch.Generator().manual_seed(0)) / 10
    return lambda images: images.flatten(1) @ weight.T


@pytest.mark.parametrize(
    ("name", "params", "needed"),
    [
        ("autoattack", {}, 4),
        ("autoattack", {"version": "rand"}, 3),
        ("apgdt", {}, 4),
        ("apgd", {"loss": "dlr"}, 3),
        ("upgd", {"loss": "dlr"}, 3),
    ],
)
def test_losses_that_look_at_several_classes_need_them(name, params, needed, pictures, ready, applied):
    batch = pictures(2, side=16, labels=[0, 1])
    with pytest.raises(CapabilityError, match=f"at least {needed} classes, this one scores {needed - 1}"):
        applied(ready(make(name, **params), linear(needed - 1)), batch, 8.0)
    quick = {"n_queries": 5} if name == "square" else {}
    enough = ready(make(name, **params, **quick), linear(needed))
    assert applied(enough, batch, 64.0).images.isfinite().all()


@pytest.mark.parametrize("name", ["fab", "apgdt"])
def test_there_are_no_more_classes_to_aim_at_than_the_target_scores(name, pictures, ready, applied):
    """The context says 10 classes; the target scores fewer, as a probe of a few of them may."""
    batch = pictures(3, side=16, scores=linear(5))
    params = {"multi_targeted": True} if name == "fab" else {}
    # A budget too small for success, so that every class is tried.
    assert applied(ready(make(name, **params), linear(5)), batch, 0.001).images.isfinite().all()
    with pytest.raises(DataError, match="label 7, but the target scores 5 classes"):
        applied(ready(make(name), linear(5)), pictures(1, side=16, labels=[7]), 8.0)


@pytest.mark.parametrize(("asked", "classes"), [(9, 10), (3, 4)])
def test_the_number_of_classes_aimed_at_is_ours_to_choose(asked, classes, pictures, ready, applied, monkeypatch):
    given = {}

    class Recording(torchattacks.APGDT):
        def __init__(self, model, **arguments):
            given.update(arguments)
            super().__init__(model, **arguments)

    monkeypatch.setattr(torchattacks, "APGDT", Recording)
    module._library_arguments.cache_clear()
    applied(ready(make("apgdt", n_target_classes=asked), linear(12)), pictures(2, side=16), 8.0)
    assert given["n_classes"] == classes


@pytest.mark.parametrize("classes", [3, 12])
def test_jsma_goes_for_the_next_class_of_those_there_are(classes, pictures, ready, applied):
    scores = linear(classes)
    batch = pictures(2, side=16, labels=[classes - 1, 0])
    attacked = applied(ready(make("jsma", gamma=0.5), scores), batch, None)
    assert scores(attacked.images).argmax(dim=1).tolist() == [0, 1]


def test_jsma_refuses_what_no_memory_holds(pictures, ready, applied):
    batch = pictures(1, side=65)
    with pytest.raises(CapabilityError, match="12675 values, 5 GB"):
        applied(ready(make("jsma"), linear(3, side=65)), batch, None)


def test_images_made_in_inference_mode_can_be_attacked(networks, pictures, ready, applied):
    with torch.inference_mode():
        batch = pictures(2)
        for name in ("pgd", "apgd", "cw"):
            attacked = applied(ready(make(name, steps=2), networks["vit"]), batch, level_of(name))
            assert not torch.equal(attacked.images, batch.images)


# --- what is not let through -----------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["deepfool", "sparsefool"])
def test_nan_names_the_images_and_the_likely_cause(name, networks, pictures, ready, applied):
    def masked(images):
        return (networks["conv"](images) * 20).round()

    with pytest.raises(
        HarnessError, match=f"torchattacks:{name} gave NaN or infinity for 2 of 2 images: 0.png"
    ) as caught:
        applied(ready(make(name), masked), pictures(2, scores=masked), None)
    assert "gradient is zero" in caught.value.hint


def fake(monkeypatch, result):
    class Broken:
        def __init__(self, model, **arguments):
            pass

        def __call__(self, images, labels):
            return result(images)

    monkeypatch.setattr(torchattacks, "BIM", Broken)
    module._library_arguments.cache_clear()


@pytest.mark.parametrize(
    ("result", "message"),
    [
        (
            lambda x: (x + 9 / 255).clamp(0, 1),
            r"torchattacks:bim left its budget of 8/255 \(linf\): up to 9.0+1?/255, for 2",
        ),
        (lambda x: x - 0.99, r"left \[0, 1\] for 2 of 2 images"),
        (lambda x: x * torch.nan, "gave NaN or infinity"),
        (lambda x: x[:, :1], r"gave \(2, 1, 32, 32\)"),
        (lambda x: x.double(), "float64"),
    ],
)
def test_results_that_break_the_promise_are_errors(result, message, networks, pictures, ready, applied, monkeypatch):
    fake(monkeypatch, result)
    with pytest.raises(HarnessError, match=message):
        applied(ready(make("bim"), networks["conv"]), pictures(2), 8.0)


def test_an_l2_budget_is_that_of_the_whole_image(networks, pictures, ready, applied, monkeypatch):
    class Broken(torchattacks.PGDL2):
        def forward(self, images, labels):
            change = torch.full_like(images, 1.01 * self.eps / images[0].numel() ** 0.5)
            return torch.where(images < 0.5, images + change, images - change)

    monkeypatch.setattr(torchattacks, "PGDL2", Broken)
    with pytest.raises(HarnessError, match=r"left its budget of 8/255 \(l2\): up to 8.0[78]"):
        applied(ready(make("pgdl2"), networks["conv"]), pictures(2), 8.0)


def test_rounding_is_no_breach(networks, pictures, ready, applied, monkeypatch):
    fake(monkeypatch, lambda x: (x + 8 / 255).clamp(0, 1) + 5e-7)
    assert applied(ready(make("bim"), networks["conv"]), pictures(2), 8.0).images.max() <= 1


def test_what_the_library_fails_with_is_told(networks, pictures, ready, applied):
    batch = pictures(2, side=32)
    wide = harness.types.ImageBatch(
        images=batch.images[:, :, :20], labels=batch.labels, ids=batch.ids, positions=batch.positions
    )
    with pytest.raises(HarnessError, match="torchattacks:pixle failed on 2 images of 20x32 pixels: IndexError"):
        applied(ready(make("pixle"), lambda x: x.mean(dim=(2, 3)).repeat(1, 4)), wide, None)


@pytest.mark.parametrize("error", [torch.OutOfMemoryError("x"), MemoryError(), RuntimeError("CUDA out of memory")])
def test_memory_that_runs_out_is_left_to_the_engine_and_randomness_put_back(error, pictures, ready, applied, states):
    def scores(images):
        if images.requires_grad:
            raise error
        return images.flatten(1)[:, :10]

    before = states()
    with pytest.raises(type(error)):
        applied(ready(make("pgd"), scores), pictures(2), 8.0)
    assert states() == before


def test_errors_of_the_target_keep_their_kind(pictures, ready, applied):
    def scores(images):
        if images.requires_grad:
            raise CapabilityError("no gradient here")
        return images.flatten(1)[:, :10]

    with pytest.raises(CapabilityError, match="no gradient here"):
        applied(ready(make("pgd"), scores), pictures(2), 8.0)


def test_levels_where_there_are_none_and_none_where_there_are(networks, pictures, ready, applied):
    batch = pictures(2)
    with pytest.raises(ParameterError, match="torchattacks:cw has no levels, but was given 4"):
        applied(ready(make("cw"), networks["conv"]), batch, 4.0)
    attack = ready(make("pgd"), networks["conv"])
    for level, message in ((None, "needs an eps_255"), (256.0, r"\[0, 255\]"), (-1.0, "eps_255 must lie")):
        with pytest.raises(ParameterError, match=message):
            applied(attack, batch, level)
    assert torch.equal(applied(attack, batch, 0.0).images, batch.images)
    with pytest.raises(HarnessError, match="needs a target"):
        ready(make("pgd"), None)


def test_warnings_of_the_library_go_to_the_log(networks, pictures, ready, applied, monkeypatch, caplog):
    def warn(images):
        warnings.warn("an old habit", DeprecationWarning, stacklevel=1)
        return images

    fake(monkeypatch, warn)
    with caplog.at_level("DEBUG", logger=module.__name__):
        applied(ready(make("bim"), networks["conv"]), pictures(2), 8.0)
    assert caplog.messages == ["torchattacks:bim: an old habit"]


def test_a_run_takes_the_librarys_spelling():
    result = harness.run(
        model="cnn_mini", dataset="shapes", probe="head", perturb="torchattacks:PGD:steps=3@2,8", limit=24
    )
    assert not result.failures
    clean, weak, strong = (record.get("top1").value for record in result.records)
    assert strong < clean
    assert strong <= weak
    assert result.records[1].cell["components"]["perturbation"]["use"] == "torchattacks:pgd"
