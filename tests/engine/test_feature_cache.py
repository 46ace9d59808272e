"""Feature tables on disk: whole or not there, memory-mapped, and damage that is told."""

from __future__ import annotations

import json

import numpy as np
import pytest

from harness.errors import DataError
from harness.feature_cache import FeatureCache, MemoryWriter

KEY = {"weights": "embedded:tiny", "positions": [1, 2]}
X = np.arange(12, dtype=np.float32).reshape(4, 3)
POSITIONS = np.array([1, 5, 6, 9], dtype=np.int64)


@pytest.fixture
def cache(tmp_path):
    return FeatureCache(tmp_path / "features")


def store(cache, key=KEY, x=X, positions=POSITIONS, parts=2):
    writer = cache.writer(key)
    for rows, places in zip(np.array_split(x, parts), np.array_split(positions, parts), strict=True):
        writer.append(rows, places)
    return writer.finish()


@pytest.mark.parametrize("parts", [1, 2, 4])
def test_what_is_stored_is_what_is_found(cache, parts):
    stored = store(cache, parts=parts)
    for found in (stored, cache.get(KEY), FeatureCache(cache.root).get(KEY)):
        assert found.x.dtype == np.float32
        assert np.array_equal(found.x, X)
        assert np.array_equal(found.positions, POSITIONS)


def test_tables_are_mapped_and_cannot_be_written_through(cache):
    found = store(cache)
    assert isinstance(found.x, np.memmap)
    with pytest.raises(ValueError, match="read-only"):
        found.x[0, 0] = 1


def test_the_memory_writer_gives_the_same_table():
    writer = MemoryWriter()
    for half in (slice(0, 2), slice(2, 4)):
        writer.append(X[half], POSITIONS[half])
    found = writer.finish()
    assert np.array_equal(found.x, X)
    assert np.array_equal(found.positions, POSITIONS)


def test_another_key_is_another_table(cache):
    store(cache)
    assert cache.get({**KEY, "positions": [1, 3]}) is None
    store(cache, key={**KEY, "level": 0.5}, x=X + 1)
    assert np.array_equal(cache.get(KEY).x, X)


def test_keys_that_say_the_same_are_the_same(cache):
    store(cache, key={"level": 1.0, "seed": 0})
    assert cache.get({"seed": 0, "level": 1}) is not None


def test_nothing_is_there_before_the_table_is_finished(cache):
    writer = cache.writer(KEY)
    writer.append(X, POSITIONS)
    assert cache.get(KEY) is None
    writer.discard()
    assert cache.get(KEY) is None
    assert list(cache.root.iterdir()) == []


def test_two_writers_of_one_table_do_no_harm(cache):
    first, second = cache.writer(KEY), cache.writer(KEY)
    for writer in (first, second):
        writer.append(X, POSITIONS)
        assert np.array_equal(writer.finish().x, X)
    assert cache.statistics()[0] == 1
    assert len(list(cache.root.iterdir())) == 1


def test_a_table_without_rows(cache):
    writer = cache.writer(KEY)
    writer.append(np.zeros((0, 3), np.float32), np.zeros(0, np.int64))
    assert writer.finish().x.shape == (0, 3)
    assert cache.get(KEY).x.shape == (0, 3)


def _cut(folder):
    path = folder / "x.float32"
    path.write_bytes(path.read_bytes()[:-1])


def _grow(folder):
    with (folder / "positions.int64").open("ab") as file:
        file.write(bytes(8))


def _lose(folder):
    (folder / "x.float32").unlink()


def _garble(folder):
    (folder / "table.json").write_text("{")


def _other(folder):
    (folder / "table.json").write_text(json.dumps({"width": 3}))


def _claim_more(folder):
    meta = json.loads((folder / "table.json").read_text())
    (folder / "table.json").write_text(json.dumps({**meta, "rows": 5}))


@pytest.mark.parametrize("damage", [_cut, _grow, _lose, _garble, _other, _claim_more])
def test_a_damaged_table_is_named_with_its_remedy(cache, damage):
    store(cache)
    (folder,) = cache.root.iterdir()
    damage(folder)
    with pytest.raises(DataError) as caught:
        cache.get(KEY)
    assert str(folder) in caught.value.message
    assert "damaged" in caught.value.message
    assert "--no-cache" in caught.value.hint


def test_statistics_and_clearing(cache):
    assert cache.statistics() == (0, 0)
    assert cache.clear() == 0
    store(cache)
    store(cache, key={"other": True})
    tables, size = cache.statistics()
    assert tables == 2
    assert size >= 2 * (X.nbytes + POSITIONS.nbytes)
    assert cache.clear() == 2
    assert cache.get(KEY) is None
