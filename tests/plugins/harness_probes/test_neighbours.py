"""Neighbours by cosine: exact searches against a slow one, whatever searches and is asked together, and indices."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import faiss
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from harness.errors import CapabilityError, DataError
from harness_probes import neighbours
from harness_probes.neighbours import (
    ExactSearch,
    Gallery,
    inverted_lists,
    nearest,
    rank_keys,
    recalls,
    require_faiss,
    rows_of,
    similarities_of,
    small_world_graph,
    unit,
)


def slowly(x, queries, k):
    """Rows and similarities of the k most similar, by sorting every similarity to 1e-9, one query at a time."""
    table = [row.astype(float) / max(np.sqrt((row.astype(float) ** 2).sum()), 1e-12) for row in x]
    rows, similarities = [], []
    for query in queries.astype(float):
        length = max(np.sqrt((query**2).sum()), 1e-12)
        found = sorted((-round(float(row @ query) / length, 9), i) for i, row in enumerate(table))[:k]
        rows.append([i for _, i in found])
        similarities.append([-s for s, _ in found])
    return np.array(rows), np.array(similarities)


def expect_slow(found, x, queries, k):
    rows, similarities = slowly(x, queries, k)
    np.testing.assert_allclose(found.similarities, similarities, atol=2e-9)
    np.testing.assert_array_equal(found.rows, rows)


def normal(seed, n, width):
    return np.random.default_rng(seed).normal(size=(n, width)).astype(np.float32)


@pytest.fixture
def small_blocks(monkeypatch):
    """A gallery of 16 columns in blocks of 7 rows, and queries in parts of 5."""
    monkeypatch.setattr(neighbours, "_BLOCK_BYTES", 4 * 16 * 7)
    monkeypatch.setattr(neighbours, "_QUERIES_AT_ONCE", 5)
    monkeypatch.setattr(neighbours, "_RESCORED_BYTES", 8 * 16 * 40)


@pytest.mark.parametrize("with_faiss", [False, True])
@settings(max_examples=25, deadline=None)
@given(st.integers(1, 150), st.integers(1, 30), st.integers(0, 10**6), st.data())
def test_exact_search_equals_sorting_every_similarity(with_faiss, n, width, seed, data):
    k = data.draw(st.integers(1, n))
    # Rows drawn with replacement, and scaled: many are equally similar to every query.
    rng = np.random.default_rng(seed)
    x = normal(seed, max(n // 2, 1), width)[rng.integers(0, max(n // 2, 1), n)] * 2.0 ** rng.integers(-3, 4, (n, 1))
    x = x.astype(np.float32)
    queries = normal(seed + 1, 6, width)
    gallery = Gallery(x)
    expect_slow(nearest(gallery, ExactSearch(gallery, with_faiss=with_faiss), queries, k), x, queries, k)


@pytest.mark.parametrize("with_faiss", [False, True])
def test_blocks_and_parts_change_nothing(small_blocks, with_faiss):
    x, queries = normal(0, 300, 16), normal(1, 33, 16)
    gallery = Gallery(x)
    assert len(list(gallery.unit_blocks())) == 43
    expect_slow(nearest(gallery, ExactSearch(gallery, with_faiss=with_faiss), queries, 20), x, queries, 20)


@pytest.mark.parametrize("with_faiss", [False, True])
def test_more_equal_rows_than_candidates_come_in_rising_order(small_blocks, with_faiss):
    x = np.tile(normal(0, 3, 16), (100, 1))
    queries = normal(1, 9, 16)
    gallery = Gallery(x)
    found = nearest(gallery, ExactSearch(gallery, with_faiss=with_faiss), queries, 120)
    expect_slow(found, x, queries, 120)
    np.testing.assert_array_equal(np.sort(found.rows[:, :100] // 3, axis=1)[0], np.arange(100))
    assert (np.diff(found.rows[:, :100], axis=1) == 3).all()


def test_rows_that_all_but_coincide_are_told_apart_in_double_precision():
    # Single precision cannot rank these: their similarities differ by about 1e-8, near 1.
    x = (normal(0, 400, 64) * 1e-3 + 10).astype(np.float32)
    queries = (normal(1, 20, 64) * 1e-3 + 10).astype(np.float32)
    gallery = Gallery(x)
    expect_slow(nearest(gallery, ExactSearch(gallery), queries, 30), x, queries, 30)
    x = np.concatenate([x] * 8)
    gallery = Gallery(x)
    expect_slow(nearest(gallery, ExactSearch(gallery), queries[:8], 300), x, queries[:8], 300)


def test_doubt_is_rare_on_ordinary_features(monkeypatch):
    asked = []
    monkeypatch.setattr(neighbours, "_best_of_all", lambda *given: asked.append(given))
    gallery = Gallery(normal(0, 5000, 64))
    nearest(gallery, ExactSearch(gallery), normal(1, 300, 64), 20)
    assert asked == []


@pytest.mark.parametrize("offset", [0.0, 10.0])
def test_what_is_found_does_not_depend_on_the_queries_asked_together(offset):
    x, queries = (normal(0, 700, 48) + offset), (normal(1, 50, 48) + offset)
    x[300:340] = x[10]
    gallery = Gallery(x)
    search = ExactSearch(gallery)
    together = nearest(gallery, search, queries, 25)
    for size in (1, 7):
        for start in range(0, 50, size):
            part = nearest(gallery, search, queries[start : start + size], 25)
            np.testing.assert_array_equal(part.rows, together.rows[start : start + size])
            np.testing.assert_array_equal(part.similarities, together.similarities[start : start + size])


def test_faiss_and_torch_find_the_same():
    x, queries = normal(0, 900, 32), normal(1, 40, 32)
    x[500:] = x[:400]
    gallery = Gallery(x)
    one, other = (nearest(gallery, ExactSearch(gallery, with_faiss=way), queries, 50) for way in (False, True))
    np.testing.assert_array_equal(one.rows, other.rows)
    np.testing.assert_array_equal(one.similarities, other.similarities)


def test_products_of_low_precision_are_not_trusted():
    x, queries = normal(0, 3000, 64), normal(1, 20, 64)
    gallery = Gallery(x)
    expected = nearest(gallery, ExactSearch(gallery), queries, 10)
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("medium")
    try:
        found = nearest(gallery, ExactSearch(gallery), queries, 10)
        rough = ExactSearch(gallery).candidates(unit(queries), 10).bound
    finally:
        torch.set_float32_matmul_precision(before)
    # Inputs may be cut to the 8 bits of bfloat16.
    assert (rough - ExactSearch(gallery).candidates(unit(queries), 10).bound > 0.2).all()
    np.testing.assert_array_equal(found.rows, expected.rows)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = nearest(gallery, ExactSearch(gallery), queries, 10)
    np.testing.assert_array_equal(found.rows, expected.rows)


def test_zeros_are_similar_to_nothing():
    x = np.concatenate([np.zeros((3, 8), np.float32), np.eye(8, dtype=np.float32), -np.eye(8, dtype=np.float32)])
    gallery = Gallery(x)
    found = nearest(gallery, ExactSearch(gallery), np.stack([np.zeros(8, np.float32), x[5]]), 19)
    assert found.similarities[0].tolist() == [0.0] * 19
    assert found.rows[0].tolist() == list(range(19))
    assert found.rows[1].tolist() == [5, *(i for i in range(19) if i not in (5, 13)), 13]
    assert found.similarities[1, [0, -1]].tolist() == [1.0, -1.0]


def test_a_memory_mapped_table_is_searched_where_it_lies(tmp_path: Path):
    x, queries = normal(0, 500, 24), normal(1, 12, 24)
    x.tofile(tmp_path / "x")
    mapped = np.memmap(tmp_path / "x", np.float32, mode="r", shape=x.shape)
    gallery = Gallery(mapped)
    for search in (ExactSearch(gallery), ExactSearch(gallery, with_faiss=True)):
        expect_slow(nearest(gallery, search, queries, 15), x, queries, 15)


@settings(max_examples=30, deadline=None)
@given(st.lists(st.tuples(st.floats(-1, 1), st.integers(0, 2**31)), min_size=1, max_size=30, unique_by=lambda p: p[1]))
def test_keys_sort_as_neighbours_do_and_can_be_read_back(pairs):
    similarities = np.array([[s for s, _ in pairs]])
    rows = np.array([[row for _, row in pairs]])
    keys = np.sort(rank_keys(similarities, rows), axis=1)
    wanted = sorted((-round(s * 1e9), row) for s, row in pairs)
    assert rows_of(keys)[0].tolist() == [row for _, row in wanted]
    np.testing.assert_allclose(similarities_of(keys)[0], [-s / 1e9 for s, _ in wanted], atol=1e-15)


def test_a_similarity_a_little_above_one_is_one():
    keys = rank_keys(np.array([[1 + 1e-7, -1 - 1e-7, 0.5]]), np.array([[0, 1, -1]]))
    assert similarities_of(keys)[0].tolist() == [1.0, -1.0, -np.inf]
    assert rows_of(keys)[0].tolist() == [0, 1, -1]


def test_keys_of_every_row_equal_those_of_candidates(small_blocks):
    x, queries = normal(0, 60, 16), unit(normal(1, 40, 16))
    gallery = Gallery(x)
    every = np.sort(np.concatenate([keys for _, keys in gallery.all_keys(queries)], axis=1), axis=1)
    asked = gallery.candidate_keys(queries, np.tile(np.arange(60), (40, 1)))
    np.testing.assert_array_equal(rows_of(every), rows_of(asked))
    np.testing.assert_allclose(similarities_of(every), similarities_of(asked), atol=1.1e-9)


# --- approximate indices


def test_searching_every_list_is_exact():
    x, queries = normal(0, 800, 16), normal(1, 30, 16)
    gallery = Gallery(x)
    expect_slow(nearest(gallery, inverted_lists(gallery, nlist=10, nprobe=99), queries, 20), x, queries, 20)


@pytest.mark.parametrize("kind", ["ivf", "hnsw"])
def test_indices_find_most_neighbours_with_exact_similarities_and_are_built_alike(kind):
    x, queries = normal(0, 2000, 16), normal(1, 30, 16)
    gallery = Gallery(x)

    def build():
        if kind == "ivf":
            return inverted_lists(gallery, nlist=None, nprobe=12)
        return small_world_graph(gallery, links=16, ef_search=64)

    found, again = (nearest(gallery, build(), queries, 10) for _ in range(2))
    exact = nearest(gallery, ExactSearch(gallery), queries, 10)
    shared = np.mean([len(set(a) & set(b)) / 10 for a, b in zip(found.rows, exact.rows, strict=True)])
    assert shared > 0.8
    where = found.rows == exact.rows
    assert where.any()
    np.testing.assert_array_equal(found.similarities[where], exact.similarities[where])
    np.testing.assert_array_equal(found.rows, again.rows)


def test_the_default_number_of_lists_is_the_square_root(capfd):
    gallery = Gallery(normal(0, 900, 8))
    search = inverted_lists(gallery, nlist=None, nprobe=4)
    assert (search._index.nlist, search._index.nprobe, search._index.ntotal) == (30, 4, 900)
    assert capfd.readouterr() == ("", "")


def test_an_index_that_finds_too_few_says_so():
    gallery = Gallery(normal(0, 200, 8))
    found = nearest(gallery, inverted_lists(gallery, nlist=50, nprobe=1), normal(1, 20, 8), 60)
    there = found.rows >= 0
    assert there.any(axis=1).all()
    assert not there.all(axis=1).any()
    assert (found.similarities[~there] == -np.inf).all()
    # What was found comes first.
    assert (np.diff(there.astype(int), axis=1) <= 0).all()


def test_recall_is_the_share_of_true_neighbours_of_the_gallerys_own_rows():
    x = normal(0, 300, 12)
    gallery = Gallery(x)
    search = inverted_lists(gallery, nlist=30, nprobe=2)
    shares = recalls(gallery, search, (1, 5, 20), most=1000)
    assert shares.shape == (3, 300)
    found = nearest(gallery, search, x, 21).rows
    for row in (0, 17, 299):
        others = np.delete(np.arange(300), row)
        exact = others[slowly(x[others], x[[row]], 20)[0][0]]
        mine = [i for i in found[row] if i not in (row, -1)][:20]
        for place, k in enumerate((1, 5, 20)):
            assert shares[place, row] == pytest.approx(len(set(mine[:k]) & set(exact[:k])) / k)
    assert 0 < shares[2].mean() < 0.95


def test_recall_of_an_exact_search_is_one_also_among_equal_rows():
    gallery = Gallery(np.tile(normal(0, 5, 8), (40, 1)))
    assert recalls(gallery, ExactSearch(gallery), (1, 50, 199, 200), most=64).tolist() == [[1.0] * 64] * 4
    assert recalls(Gallery(normal(0, 1, 8)), ExactSearch(gallery), (1, 5), most=64).shape == (2, 0)


def test_more_lists_than_rows_are_refused():
    with pytest.raises(DataError, match="9 lists need that many support images, there are 8"):
        inverted_lists(Gallery(normal(0, 8, 4)), nlist=9, nprobe=1)


def test_faiss_runs_with_torchs_threads_and_gets_its_own_back(monkeypatch):
    counts = []
    real = faiss.omp_set_num_threads
    monkeypatch.setattr(faiss, "omp_set_num_threads", lambda count: (counts.append(count), real(count)))
    gallery = Gallery(normal(0, 100, 8))
    before, threads = faiss.omp_get_max_threads(), torch.get_num_threads()
    search = inverted_lists(gallery, nlist=4, nprobe=1)
    assert counts == [1, before]
    monkeypatch.setattr(torch, "get_num_threads", lambda: 3)
    nearest(gallery, search, normal(1, 3, 8), 2)
    nearest(gallery, ExactSearch(gallery, with_faiss=True), normal(1, 3, 8), 2)
    assert counts[2:] == [3, before, 3, before]
    monkeypatch.undo()
    # Where both share one OpenMP, torch's number of threads would change with faiss's.
    assert (faiss.omp_get_max_threads(), torch.get_num_threads()) == (before, threads)


def test_a_lack_of_faiss_is_said(monkeypatch):
    require_faiss("this")
    monkeypatch.setattr(neighbours, "has_faiss", lambda: False)
    with pytest.raises(CapabilityError, match="this needs faiss, which is not installed"):
        require_faiss("this")


_MEASURE = """
import sys
from pathlib import Path
import numpy as np
import torch
from harness_probes.neighbours import ExactSearch, Gallery, nearest

def peak():
    return 1024 * int(Path("/proc/self/status").read_text().partition("VmHWM:")[2].split()[0])

def search(x):
    gallery = Gallery(x)
    nearest(gallery, ExactSearch(gallery, with_faiss=sys.argv[1] == "faiss"), queries, 200)

torch.set_num_threads(1)
rng = np.random.default_rng(0)
x, queries = rng.random((40_000, 384), np.float32), rng.random((300, 384), np.float32)
# Blocks and what libraries keep are the same for any table, and are there after a smaller one.
search(rng.random((12_000, 384), np.float32))
before = peak()
search(x)
print((peak() - before) / x.nbytes)
"""


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="reads the peak of memory from Linux's /proc")
@pytest.mark.parametrize("backend", ["torch", "faiss"])
def test_exact_search_never_copies_the_table(backend):
    ended = subprocess.run(
        [sys.executable, "-c", _MEASURE, backend], stdout=subprocess.PIPE, text=True, check=True, timeout=300
    )
    assert float(ended.stdout) < 0.25
