"""Keyed randomness: pinned bits, independence of everything but the key, and statistics that catch weak hashes."""

from __future__ import annotations

import hashlib
import os
import random
import subprocess
import sys
from collections.abc import Callable, Sequence
from itertools import combinations, permutations, product

import numpy as np
import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from scipy import stats

from harness import rng
from harness.errors import ParameterError
from harness.types import Ids

IDS = ["1", "2", "img_0001", "img_0002", "val/n01440764/ILSVRC2012_val_00000293.JPEG", "Bär 🐻.png", ""]
ALPHA = 1e-4
"""Every check has a fixed seed, so it either always passes or never does; the threshold is that of one honest look."""


def sha(array: np.ndarray) -> str:
    return hashlib.sha256(array.astype(array.dtype.newbyteorder("<")).tobytes()).hexdigest()[:32]


# --- the numbers themselves ------------------------------------------------------------------------------------


def slow_bits(seed: int, stream: str, name: str, counter: int) -> int:
    """The definition in the module docstring, in Python integers, one draw at a time."""

    def mix(z: int) -> int:
        z = (z ^ z >> 30) * 0xBF58476D1CE4E5B9 % 2**64
        z = (z ^ z >> 27) * 0x94D049BB133111EB % 2**64
        return z ^ z >> 31

    outer = hashlib.blake2b(f"{seed}\0{stream}".encode(), digest_size=32).digest()
    digest = hashlib.blake2b(name.encode(), key=outer, digest_size=16, person=b"bits").digest()
    k0, k1 = int.from_bytes(digest[:8], "little"), int.from_bytes(digest[8:], "little")
    return mix((mix((k0 + (counter + 1) * 0x9E3779B97F4A7C15) % 2**64) + k1) % 2**64)


def test_the_mixing_function_is_that_of_splitmix64() -> None:
    # The first outputs of SplitMix64 for seed 1234567, as published with its reference implementation.
    words = np.uint64(1234567) + np.arange(1, 6, dtype=np.uint64) * rng._GAMMA
    rng._mix(words, np.empty_like(words))
    assert words.tolist() == [
        6457827717110365317,
        3203168211198807973,
        9817491932198370423,
        4593380528125082431,
        16408922859458223821,
    ]


@pytest.mark.parametrize("start", [0, 1, 195, 2**32 - 2, 2**63 - 2, 2**64 - 4])
@pytest.mark.parametrize("seed", [0, 7, -1, 2**80])
def test_bits_equal_a_slow_reference(seed: int, start: int) -> None:
    expected = [[slow_bits(seed, "mask", name, start + c) for c in range(4)] for name in IDS]
    assert rng.bits(seed, "mask", IDS, 4, start=start).tolist() == expected


@settings(deadline=None)
@given(word=st.integers(0, 2**64 - 1), width=st.integers(1, 2**64))
@example(word=2**64 - 1, width=2**64)
@example(word=2**64 - 1, width=2**64 - 1)
def test_multiply_high_equals_big_integers(word: int, width: int) -> None:
    assert rng._multiply_high(np.array([word], dtype=np.uint64), width).tolist() == [word * width >> 64]


@settings(deadline=None)
@given(low=st.integers(-(2**63), 2**63 - 1), width=st.integers(1, 2**64))
@example(low=-(2**63), width=2**64)
def test_integers_scale_the_bits_into_their_range(low: int, width: int) -> None:
    high = min(low + width, 2**63)
    drawn = rng.integers(3, "target", IDS, 5, low, high, start=2)
    expected = [
        [low + (word * (high - low) >> 64) for word in row] for row in rng.bits(3, "target", IDS, 5, start=2).tolist()
    ]
    assert drawn.dtype == np.int64
    assert drawn.tolist() == expected


def test_uniforms_are_the_upper_53_bits() -> None:
    words = rng.bits(3, "angle", IDS, 9, start=1).tolist()
    drawn = rng.uniforms(3, "angle", IDS, 9, start=1)
    assert drawn.dtype == np.float64
    assert drawn.tolist() == [[(word >> 11) / 2**53 for word in row] for row in words]


@pytest.mark.parametrize("word", [0, 2**64 - 1])
def test_uniforms_and_integers_hold_their_bounds_at_the_extreme_words(
    word: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rng, "bits", lambda *args, start=0: np.full((1, 1), word, dtype=np.uint64))
    assert 0 <= rng.uniforms(0, "s", ["a"], 1)[0, 0] < 1
    assert rng.integers(0, "s", ["a"], 1, -5, 1000)[0, 0] == (999 if word else -5)


def test_ranks_invert_permutations_and_subsets_are_nested_in_k() -> None:
    order, places = rng.permutations(1, "mask", IDS, 49), rng.ranks(1, "mask", IDS, 49)
    assert order.dtype == places.dtype == np.int64
    assert (np.take_along_axis(places, order, axis=1) == np.arange(49)).all()
    assert (np.diff(np.take_along_axis(rng.bits(1, "mask", IDS, 49), order, axis=1).astype(object), axis=1) > 0).all()
    smaller = np.zeros((len(IDS), 49), dtype=bool)
    for k in range(50):
        chosen = rng.subsets(1, "mask", IDS, 49, k)
        assert chosen.dtype == np.bool_
        assert (chosen.sum(axis=1) == k).all()
        assert (chosen >= smaller).all()
        smaller = chosen


GOLDEN = {
    "bits": (lambda: rng.bits(0, "golden", IDS, 196), "7e5d59a51752331869510063f659cdf8"),
    "bits, seed 1": (lambda: rng.bits(1, "golden", IDS, 196), "e80c11fc5e200acc47bf9fbef55e05fb"),
    "uniforms": (lambda: rng.uniforms(0, "golden", IDS, 196), "5574afa87cb89d439d61733ed86c03a8"),
    "integers": (lambda: rng.integers(0, "golden", IDS, 196, -7, 1000), "c061aa15cfc80afade38a4f07366bbcf"),
    "ranks": (lambda: rng.ranks(0, "golden", IDS, 196), "7399c56872e70e25145642ca02f6d4c9"),
    "normals, exact": (lambda: rng.normals(0, "golden", IDS, (3, 32, 32)), "ed73f429b7ecd69f9e50d0104fa1266b"),
    "normals, as pixels": (
        lambda: as_pixels(rng.normals(0, "golden", IDS, (3, 32, 32))),
        "ecadaee07c9214c641831d6ab955a383",
    ),
    "dense uniforms, exact": (
        lambda: rng.dense_uniforms(0, "golden", IDS, (3, 32, 32)),
        "f8e02a1624c7e4f9fecf06efb232b017",
    ),
}


def as_pixels(noise: np.ndarray) -> np.ndarray:
    """Grey plus noise of deviation 0.18 (Gaussian noise of severity 3) in eight bits: what an image would show."""
    return np.rint(np.clip(0.5 + 0.18 * noise.astype(np.float64), 0, 1) * 255).astype(np.uint8)


@pytest.mark.parametrize("name", GOLDEN)
def test_golden_digests(name: str) -> None:
    # A change here changes every number ever recorded: bump the version of each component that draws from `rng`.
    draw, expected = GOLDEN[name]
    assert sha(draw()) == expected


# --- a function of the key and nothing else --------------------------------------------------------------------

Draw = Callable[[Sequence[str]], np.ndarray]
DRAWS: dict[str, Draw] = {
    "bits": lambda ids: rng.bits(5, "s", ids, 7),
    "uniforms": lambda ids: rng.uniforms(5, "s", ids, 7),
    "integers": lambda ids: rng.integers(5, "s", ids, 7, 0, 100),
    "permutations": lambda ids: rng.permutations(5, "s", ids, 7),
    "ranks": lambda ids: rng.ranks(5, "s", ids, 7),
    "subsets": lambda ids: rng.subsets(5, "s", ids, 7, 3),
    "normals": lambda ids: rng.normals(5, "s", ids, (2, 3)),
    "dense_uniforms": lambda ids: rng.dense_uniforms(5, "s", ids, (2, 3)),
}


@pytest.mark.parametrize("name", DRAWS)
@settings(max_examples=40, deadline=None)
@given(ids=st.lists(st.text(), max_size=12), cut=st.integers(0, 12), seed=st.randoms())
def test_batches_and_order_change_nothing(name: str, ids: list[str], cut: int, seed: random.Random) -> None:
    draw = DRAWS[name]
    whole = draw(ids)
    assert len(whole) == len(ids)
    np.testing.assert_array_equal(np.concatenate([draw(ids[:cut]), draw(ids[cut:])]), whole)
    order = list(range(len(ids)))
    seed.shuffle(order)
    np.testing.assert_array_equal(draw([ids[i] for i in order]), whole[order])
    np.testing.assert_array_equal(draw(Ids(ids)), whole)


@pytest.mark.parametrize("name", DRAWS)
def test_equal_ids_draw_alike_and_others_do_not(name: str) -> None:
    drawn = DRAWS[name](["a", "b", "a"])
    np.testing.assert_array_equal(drawn[0], drawn[2])
    assert (drawn[0] != drawn[1]).any()


@settings(deadline=None)
@given(start=st.integers(0, 2**64 - 100), count=st.integers(0, 50), cut=st.integers(0, 50))
def test_counters_can_be_drawn_in_parts(start: int, count: int, cut: int) -> None:
    cut = min(cut, count)
    whole = rng.bits(5, "s", IDS, count, start=start)
    parts = [rng.bits(5, "s", IDS, cut, start=start), rng.bits(5, "s", IDS, count - cut, start=start + cut)]
    np.testing.assert_array_equal(np.concatenate(parts, axis=1), whole)


def test_seed_and_stream_cannot_spell_each_other() -> None:
    drawn = [
        rng.bits(*key, ["a"], 1).item() for key in [(1, "2"), (12, ""), (1, ""), (-1, "2"), (1, "\x002"), (1, "2\0")]
    ]
    assert len(set(drawn)) == len(drawn)


def test_counter_hash_and_dense_generators_share_no_key() -> None:
    keys = {rng._keys(purpose, 0, "s", ["a"]).tobytes() for purpose in (b"bits", b"normals", b"uniforms")}
    assert len(keys) == 3


def test_integer_types_of_a_seed_do_not_matter() -> None:
    for seed in (np.int64(5), np.uint8(5), torch.tensor(5)):
        np.testing.assert_array_equal(rng.bits(seed, "s", IDS, 7), DRAWS["bits"](IDS))


def test_file_names_that_are_no_utf8_have_keys_of_their_own() -> None:
    name = os.fsdecode(b"caf\xe9.png")
    assert len(np.unique(rng.bits(0, "s", [name, "caf\udcea.png", "café.png"], 1))) == 3


def test_global_random_states_are_left_alone_and_do_not_matter() -> None:
    before = {name: draw(IDS) for name, draw in DRAWS.items()}
    states = random.getstate(), np.random.get_state(), torch.get_rng_state()  # noqa: NPY002 - the global state is what is tested
    for draw in DRAWS.values():
        draw(IDS)
    assert random.getstate() == states[0]
    assert all(np.array_equal(a, b) for a, b in zip(np.random.get_state(), states[1], strict=True))  # noqa: NPY002 - the global state is what is tested
    assert torch.equal(torch.get_rng_state(), states[2])
    try:
        random.seed(1), np.random.seed(1), torch.manual_seed(1)  # noqa: NPY002 - the global state is what is tested
        for name, draw in DRAWS.items():
            np.testing.assert_array_equal(draw(IDS), before[name])
    finally:
        random.setstate(states[0])
        np.random.set_state(states[1])  # noqa: NPY002 - the global state is what is tested
        torch.set_rng_state(states[2])


def test_another_process_draws_the_same_without_torch() -> None:
    code = (
        "import sys; from harness import rng; assert 'torch' not in sys.modules;"
        "print(rng.bits(5, 's', ['a', 'b'], 3).tolist(), rng.normals(5, 's', ['a'], (2,)).tolist())"
    )
    # Another hash seed stands for another machine: nothing may hang on the order of sets or on `hash`.
    environment = {**os.environ, "PYTHONHASHSEED": "4711", "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    said = subprocess.run([sys.executable, "-c", code], env=environment, check=True, capture_output=True, text=True)
    here = f"{rng.bits(5, 's', ['a', 'b'], 3).tolist()} {rng.normals(5, 's', ['a'], (2,)).tolist()}"
    assert said.stdout.strip() == here


# --- edges -----------------------------------------------------------------------------------------------------


def test_nothing_asked_gives_empty_arrays() -> None:
    assert rng.bits(0, "s", [], 5).shape == (0, 5)
    assert rng.bits(0, "s", IDS, 0).shape == (len(IDS), 0)
    assert rng.ranks(0, "s", [], 5).shape == (0, 5)
    assert rng.ranks(0, "s", IDS, 0).shape == (len(IDS), 0)
    assert rng.subsets(0, "s", IDS, 0, 0).shape == (len(IDS), 0)
    assert rng.normals(0, "s", [], (3, 2, 2)).shape == (0, 3, 2, 2)
    assert rng.normals(0, "s", IDS, ()).shape == (len(IDS),)
    assert rng.dense_uniforms(0, "s", IDS, (0, 2)).shape == (len(IDS), 0, 2)


@pytest.mark.parametrize(
    ("call", "said"),
    [
        (lambda: rng.bits(0, "s", IDS, -1), "count must not be negative, but is -1"),
        (lambda: rng.bits(0, "s", IDS, 1, start=-1), "start must not be negative"),
        (lambda: rng.bits(0, "s", IDS, 2, start=2**64 - 1), "beyond the last counter"),
        (lambda: rng.bits(0.5, "s", IDS, 1), "seed must be an integer, not 0.5"),
        (lambda: rng.bits(None, "s", IDS, 1), "seed must be an integer, not None"),
        (lambda: rng.bits(0, "s", IDS, 98.0), "count must be an integer"),
        (lambda: rng.bits(0, "s", "cat.png", 1), "not the string 'cat.png'"),
        (lambda: rng.normals(0, "s", "cat.png", (1,)), "not the string 'cat.png'"),
        (lambda: rng.uniforms(0, "s", IDS, -1), "count must not be negative"),
        (lambda: rng.integers(0, "s", IDS, 1, 3, 3), "low=3 must lie below high=3"),
        (lambda: rng.integers(0, "s", IDS, 1, 0, 2**63 + 1), "does not fit"),
        (lambda: rng.integers(0, "s", IDS, 1, 0.0, 2), "low must be an integer"),
        (lambda: rng.ranks(0, "s", IDS, -1), "n must not be negative"),
        (lambda: rng.permutations(0, "s", IDS, -1), "n must not be negative"),
        (lambda: rng.subsets(0, "s", IDS, 4, 5), "cannot choose k=5 of n=4"),
        (lambda: rng.subsets(0, "s", IDS, 4, -1), "k must not be negative"),
        (lambda: rng.normals(0, "s", IDS, (3, -1)), "length in shape must not be negative"),
        (lambda: rng.dense_uniforms(0, "s", IDS, (2.5,)), "length in shape must be an integer"),
    ],
)
def test_bad_arguments_say_what_is_wrong(call: Callable[[], object], said: str) -> None:
    with pytest.raises(ParameterError) as caught:
        call()
    assert said in str(caught.value)


# --- statistics of the counter-based bits, and weak hashes that they catch ---------------------------------------

Bits = Callable[[int, str, Sequence[str], int], np.ndarray]
MANY = [str(i) for i in range(400)]
PAIRS = [("1", "2"), ("img_0001", "img_0002"), ("img_0001", "img_0010"), ("a", "A"), ("x.png", "x.png "), ("ab", "ba")]


def flips(left: np.ndarray, right: np.ndarray) -> np.ndarray:
    """Which of the 64 bits differ: (words, 64) bool of two arrays of as many words."""
    words = (left ^ right).ravel().astype("<u8")
    return np.unpackbits(words.view(np.uint8).reshape(-1, 8), axis=1).astype(bool)


def assert_fair_coins(heads: np.ndarray) -> None:
    """(draws, coins) bool: each coin, all coins together, and the heads per draw are as fair as chance allows."""
    draws, coins = heads.shape
    per_coin = (heads.sum(axis=0) - draws / 2) / np.sqrt(draws / 4)
    assert np.abs(per_coin).max() < stats.norm.isf(ALPHA / coins)
    per_draw = heads.sum(axis=1)
    edges = stats.binom.ppf(np.linspace(0, 1, 9)[1:-1], coins, 0.5)
    expected = np.diff(np.concatenate([[0], stats.binom.cdf(edges, coins, 0.5), [1]])) * draws
    observed = np.bincount(np.searchsorted(edges, per_draw, side="left"), minlength=8)
    assert stats.chisquare(observed, expected).pvalue > ALPHA


def check_each_byte_is_uniform(bits: Bits) -> None:
    octets = bits(0, "s", MANY, 196).astype("<u8").ravel().view(np.uint8).reshape(-1, 8)
    for place in range(8):
        assert stats.chisquare(np.bincount(octets[:, place], minlength=256)).pvalue > ALPHA


def check_numbers_are_uniform_within_an_image(bits: Bits) -> None:
    for name in IDS:
        numbers = bits(0, "s", [name], 5000)[0] / 2.0**64
        assert stats.kstest(numbers, "uniform").pvalue > ALPHA


def check_successive_counters_are_independent(bits: Bits) -> None:
    words = bits(0, "s", IDS, 3000)
    for lag in (1, 2, 14):
        assert_fair_coins(flips(words[:, :-lag], words[:, lag:]))
        left, right = words[:, :-lag] >> np.uint64(60), words[:, lag:] >> np.uint64(60)
        table = np.bincount((left * np.uint64(16) + right).ravel().astype(np.int64), minlength=256)
        assert stats.chisquare(table).pvalue > ALPHA


def check_similar_ids_are_independent(bits: Bits) -> None:
    for left, right in PAIRS:
        words = bits(0, "s", [left, right], 5000)
        assert_fair_coins(flips(words[0], words[1]))
        assert abs(stats.spearmanr(words[0] / 2.0**64, words[1] / 2.0**64).statistic) < 4.5 / np.sqrt(5000)


def check_streams_are_independent(bits: Bits) -> None:
    for left, right in combinations(["mask", "mask2", "Mask", "shuffle"], 2):
        assert_fair_coins(flips(bits(0, left, IDS, 1000), bits(0, right, IDS, 1000)))


def check_neighbouring_seeds_are_independent(bits: Bits) -> None:
    for left, right in [(0, 1), (1, 2), (0, -1), (1, 2**64 + 1), (7, 7 + 2**32)]:
        assert_fair_coins(flips(bits(left, "s", IDS, 1000), bits(right, "s", IDS, 1000)))


def check_the_first_draw_avalanches_in_the_id(bits: Bits) -> None:
    # One draw an image, as the angle or the sign of a whole image is drawn: flip each bit of each character of a name.
    for counter in (0, 1):
        for place, bit in product((0, 4, 7), range(7)):
            names = [f"{i:08d}" for i in range(600)]
            other = [name[:place] + chr(ord(name[place]) ^ 1 << bit) + name[place + 1 :] for name in names]
            assert_fair_coins(flips(bits(0, "s", names, 2)[:, counter], bits(0, "s", other, 2)[:, counter]))


def check_nothing_repeats_at_other_counters(bits: Bits) -> None:
    # Shifted copies: seed s at counter c + 1 drawing what seed s + 1 draws at counter c, and the like for ids.
    drawn = [bits(seed, stream, MANY[:50], 196) for seed in range(5) for stream in ("a", "b", "c")]
    words = np.concatenate([d.ravel() for d in drawn])
    assert len(np.unique(words)) == len(words)


def check_orders_are_uniform(bits: Bits) -> None:
    orders = np.argsort(bits(0, "s", [f"img_{i:05d}" for i in range(24000)], 4), axis=1)
    counts = [(orders == order).all(axis=1).sum() for order in permutations(range(4))]
    assert stats.chisquare(counts).pvalue > ALPHA


CHECKS = {name: check for name, check in globals().items() if name.startswith("check_")}


@pytest.mark.parametrize("name", CHECKS)
def test_bits_are_random(name: str) -> None:
    CHECKS[name](rng.bits)


def _key(*parts: object) -> int:
    return int.from_bytes(hashlib.blake2b(repr(parts).encode(), digest_size=8).digest(), "little")


def _mixed(words: np.ndarray) -> np.ndarray:
    rng._mix(words, np.empty_like(words))
    return words


def _counters(keys: Sequence[int], count: int, gamma: int = 1) -> np.ndarray:
    return np.array(keys, dtype=np.uint64)[:, None] + np.arange(count, dtype=np.uint64) * np.uint64(gamma)


WEAK: dict[str, tuple[Bits, str]] = {
    "key plus counter, never mixed": (
        lambda seed, stream, ids, count: _counters([_key(seed, stream, i) for i in ids], count),
        "check_numbers_are_uniform_within_an_image",
    ),
    "an even sequence, never mixed": (
        lambda seed, stream, ids, count: _counters([_key(seed, stream, i) for i in ids], count, 0x9E3779B97F4A7C15),
        "check_successive_counters_are_independent",
    ),
    "key xored onto a mixed counter": (
        lambda seed, stream, ids, count: (
            _mixed(_counters([0], count, 0x9E3779B97F4A7C15)) ^ _counters([_key(seed, stream, i) for i in ids], 1)
        ),
        "check_similar_ids_are_independent",
    ),
    "one draw for the whole batch": (
        lambda seed, stream, ids, count: _mixed(_counters([_key(seed, stream)] * len(ids), count, 0x9E3779B97F4A7C15)),
        "check_similar_ids_are_independent",
    ),
    "characters of the id summed": (
        lambda seed, stream, ids, count: _mixed(
            _counters([_key(seed, stream, sum(map(ord, i))) for i in ids], count, 0x9E3779B97F4A7C15)
        ),
        "check_similar_ids_are_independent",
    ),
    "stream forgotten": (
        lambda seed, stream, ids, count: rng.bits(seed, "", ids, count),
        "check_streams_are_independent",
    ),
    "seed cut to 32 bits": (
        lambda seed, stream, ids, count: rng.bits(seed % 2**32, stream, ids, count),
        "check_neighbouring_seeds_are_independent",
    ),
    "seed added to the counter": (
        lambda seed, stream, ids, count: np.concatenate(
            [rng.bits(0, stream, [i], count, start=seed % 2**32) for i in ids]
        ),
        "check_nothing_repeats_at_other_counters",
    ),
    "id hashed without its last character": (
        lambda seed, stream, ids, count: rng.bits(seed, stream, [i[:-1] for i in ids], count),
        "check_the_first_draw_avalanches_in_the_id",
    ),
    "float32 in disguise": (
        lambda seed, stream, ids, count: rng.bits(seed, stream, ids, count) >> np.uint64(40) << np.uint64(40),
        "check_each_byte_is_uniform",
    ),
    "one bit slightly loaded": (
        lambda seed, stream, ids, count: (
            rng.bits(seed, stream, ids, count)
            | (rng.bits(seed, stream, ids, count, start=count) < np.uint64(2**60)).astype(np.uint64) << np.uint64(17)
        ),
        "check_each_byte_is_uniform",
    ),
    "first cell favoured": (
        lambda seed, stream, ids, count: np.hstack(
            [rng.bits(seed, stream, ids, 1) // 16 * 15, rng.bits(seed, stream, ids, count - 1, start=1)]
        ),
        "check_orders_are_uniform",
    ),
}


@pytest.mark.parametrize("name", WEAK)
def test_the_checks_catch_a_weak_hash(name: str) -> None:
    bits, catcher = WEAK[name]
    with pytest.raises(AssertionError):
        CHECKS[catcher](bits)


def test_every_check_has_a_weak_hash_that_it_catches() -> None:
    assert {catcher for _, catcher in WEAK.values()} == set(CHECKS)


# --- statistics of what is made of the bits ----------------------------------------------------------------------


def test_subsets_hold_every_cell_and_every_pair_equally_often() -> None:
    images, n, k = 20000, 16, 7
    chosen = rng.subsets(0, "mask", [f"img_{i:05d}" for i in range(images)], n, k).astype(np.float64)
    single = k / n
    pair = k * (k - 1) / (n * (n - 1))
    once = (chosen.sum(axis=0) - images * single) / np.sqrt(images * single * (1 - single))
    together = (chosen.T @ chosen)[np.triu_indices(n, 1)]
    twice = (together - images * pair) / np.sqrt(images * pair * (1 - pair))
    assert np.abs(once).max() < stats.norm.isf(ALPHA / n)
    assert np.abs(twice).max() < stats.norm.isf(ALPHA / len(twice))
    # The sum over cells of the squared deviations follows (n - 1) chi-square under sampling without replacement.
    assert ALPHA < stats.chi2.sf((once**2).sum() * (n - 1) / n, n - 1) < 1 - ALPHA


def test_a_cell_has_every_rank_equally_often() -> None:
    places = rng.ranks(0, "mask", MANY, 196)
    assert (np.sort(places, axis=1) == np.arange(196)).all()
    places = rng.ranks(0, "mask", [f"img_{i:05d}" for i in range(10000)], 7)
    for cell in range(7):
        assert stats.chisquare(np.bincount(places[:, cell], minlength=7)).pvalue > ALPHA


@pytest.mark.parametrize(("low", "high"), [(0, 10), (-3, 4), (0, 1000)])
def test_integers_are_uniform(low: int, high: int) -> None:
    drawn = rng.integers(0, "target", MANY, 100, low, high)
    assert stats.chisquare(np.bincount((drawn - low).ravel(), minlength=high - low)).pvalue > ALPHA


@pytest.mark.parametrize(("draw", "law"), [(rng.normals, stats.norm), (rng.dense_uniforms, stats.uniform)])
def test_dense_noise_has_its_law_and_images_are_independent(draw: Callable[..., np.ndarray], law: object) -> None:
    noise = draw(0, "noise", IDS, (3, 64, 64)).reshape(len(IDS), -1)
    assert noise.dtype == np.float32
    for row in noise:
        assert stats.kstest(row.astype(np.float64), law.cdf).pvalue > ALPHA
    others = [draw(1, "noise", IDS[:1], (3, 64, 64)), draw(0, "noise2", IDS[:1], (3, 64, 64))]
    table = np.concatenate([noise, *(other.reshape(1, -1) for other in others)])
    correlations = np.corrcoef(table)[np.triu_indices(len(table), 1)]
    assert np.abs(correlations).max() < stats.norm.isf(ALPHA / len(correlations)) / np.sqrt(noise.shape[1])
    for row in noise:
        assert abs(np.corrcoef(row[:-1], row[1:])[0, 1]) < 4.5 / np.sqrt(len(row))


def test_dense_uniforms_stay_below_one() -> None:
    noise = rng.dense_uniforms(0, "noise", MANY, (64, 64))
    assert noise.min() >= 0
    assert noise.max() < 1
    assert (noise * 2**24 == np.rint(noise * 2**24)).all()
