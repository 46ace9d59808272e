"""Stored maps: round trips, damage, several writers at once, a full disk, and memory that does not grow."""

from __future__ import annotations

import shutil
import subprocess
import sys
import tracemalloc

import numpy as np
import pytest

from harness.errors import DataError
from harness_patchdrop import saliency_store
from harness_patchdrop.saliency_store import DiskMaps, MemoryMaps

CELLS = 6
ROW_BYTES = 16 + 4 * CELLS + 4


def maps_of(ids, *, plus=0):
    """A map that is a function of its id, another for every id."""
    return np.array(
        [np.arange(CELLS) + int.from_bytes(name.encode()[-9:], "big") % 99991 + plus for name in ids], np.int32
    )


IDS = [f"photos/{i:03}.png" for i in range(20)]


def store(root, key=("model", 1)):
    return DiskMaps(root, list(key), CELLS)


def test_the_maps_of_these_tests_differ():
    assert len({row.tobytes() for row in maps_of(IDS)}) == len(IDS)


def segments(root):
    return sorted(root.glob("*/*.maps"))


@pytest.fixture(params=["disk", "memory"])
def any_store(request, tmp_path):
    return store(tmp_path) if request.param == "disk" else MemoryMaps(CELLS)


def test_what_was_put_is_what_comes_back_and_the_rest_is_missing(any_store):
    any_store.put(IDS[:5], maps_of(IDS[:5]))
    wanted = [IDS[4], IDS[7], IDS[0]]
    maps, known = any_store.get(wanted)
    assert known.tolist() == [True, False, True]
    assert maps.dtype == np.int32
    assert (maps[known] == maps_of([IDS[4], IDS[0]])).all()
    assert not maps[1].any()


def test_names_that_are_not_valid_utf8_can_be_stored(any_store):
    odd = [b"caf\xe9.png".decode("utf-8", "surrogateescape"), "café.png", ""]
    any_store.put(odd, np.arange(3 * CELLS, dtype=np.int32).reshape(3, CELLS))
    maps, known = any_store.get(odd)
    assert known.all()
    assert (maps == np.arange(3 * CELLS).reshape(3, CELLS)).all()


def test_nothing_is_written_before_there_is_a_map(tmp_path):
    assert not store(tmp_path).get(IDS[:2])[1].any()
    assert list(tmp_path.iterdir()) == []


def test_later_stores_of_the_same_key_see_the_maps_and_others_do_not(tmp_path):
    store(tmp_path).put(IDS, maps_of(IDS))
    maps, known = store(tmp_path).get(IDS)
    assert known.all()
    assert (maps == maps_of(IDS)).all()
    assert not store(tmp_path, key=("model", 2)).get(IDS)[1].any()


def test_a_store_in_use_sees_what_another_one_adds(tmp_path):
    first, second = store(tmp_path), store(tmp_path)
    assert not second.get(IDS[:3])[1].any()
    first.put(IDS[:3], maps_of(IDS[:3]))
    assert second.get(IDS[:3])[1].all()
    first.put(IDS[3:6], maps_of(IDS[3:6]))
    maps, known = second.get(IDS[:6])
    assert known.all()
    assert (maps == maps_of(IDS[:6])).all()


def test_the_map_that_was_met_first_counts(tmp_path):
    reader = store(tmp_path)
    store(tmp_path).put(IDS[:1], maps_of(IDS[:1]))
    reader.get(IDS[:1])
    for i in range(100):  # more than are kept apart in memory
        store(tmp_path).put([IDS[0], f"other-{i}"], maps_of([IDS[0], f"other-{i}"], plus=1))
        assert reader.get([f"other-{i}"])[1].all()
    assert (reader.get(IDS[:1])[0] == maps_of(IDS[:1])).all()
    names = [f"other-{i}" for i in range(100)]
    assert (reader.get(names)[0] == maps_of(names, plus=1)).all()


# --- damage ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("cut", [1, 4, 20, ROW_BYTES - 1])
def test_a_row_that_was_cut_short_is_as_good_as_none(tmp_path, cut):
    store(tmp_path).put(IDS[:3], maps_of(IDS[:3]))
    (file,) = segments(tmp_path)
    file.write_bytes(file.read_bytes()[:-cut])
    again = store(tmp_path)
    assert again.get(IDS[:3])[1].tolist() == [True, True, False]
    again.put(IDS[2:3], maps_of(IDS[2:3]))
    maps, known = store(tmp_path).get(IDS[:3])
    assert known.all()
    assert (maps == maps_of(IDS[:3])).all()


@pytest.mark.parametrize("place", [0, 15, 16, 16 + 4 * CELLS - 1, 16 + 4 * CELLS, ROW_BYTES - 1])
def test_a_damaged_row_is_as_good_as_none_and_can_be_put_again(tmp_path, place):
    store(tmp_path).put(IDS[:3], maps_of(IDS[:3]))
    (file,) = segments(tmp_path)
    data = bytearray(file.read_bytes())
    data[ROW_BYTES + place] ^= 1
    file.write_bytes(data)
    again = store(tmp_path)
    assert again.get(IDS[:3])[1].tolist() == [True, False, True]
    again.put(IDS[1:2], maps_of(IDS[1:2]))
    maps, known = store(tmp_path).get(IDS[:3])
    assert known.all()
    assert (maps == maps_of(IDS[:3])).all()


def test_a_segment_of_zeros_as_a_power_cut_leaves_it_holds_nothing(tmp_path):
    store(tmp_path).put(IDS[:3], maps_of(IDS[:3]))
    (file,) = segments(tmp_path)
    file.write_bytes(bytes(3 * ROW_BYTES))
    assert not store(tmp_path).get([*IDS[:3], ""])[1].any()


def test_a_full_disk_is_an_error_that_says_what_to_do_and_what_is_stored_later_is_whole(tmp_path, monkeypatch):
    writer = store(tmp_path)
    writer.put(IDS[:2], maps_of(IDS[:2]))
    append = saliency_store._append

    def half(path, data):
        append(path, data[: len(data) // 2 + 3])
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(saliency_store, "_append", half)
    with pytest.raises(DataError, match="No space left") as caught:
        writer.put(IDS[2:4], maps_of(IDS[2:4]))
    assert "--no-cache" in caught.value.hint
    monkeypatch.setattr(saliency_store, "_append", append)
    writer.put(IDS[4:6], maps_of(IDS[4:6]))
    for reader in (writer, store(tmp_path)):
        maps, known = reader.get(IDS[:6])
        assert known[[0, 1, 4, 5]].all()
        assert (maps[known] == maps_of(IDS[:6])[known]).all()


def test_a_folder_that_cannot_be_written_to_is_an_error(tmp_path):
    (tmp_path / "saliency").write_text("a file")
    with pytest.raises(DataError, match="cannot store saliency maps"):
        store(tmp_path / "saliency").put(IDS[:1], maps_of(IDS[:1]))


def test_clearing_the_cache_does_no_harm_to_a_store_in_use(tmp_path):
    used = store(tmp_path / "saliency")
    used.put(IDS[:2], maps_of(IDS[:2]))
    assert used.get(IDS[:2])[1].all()
    shutil.rmtree(tmp_path / "saliency")
    assert (used.get(IDS[:2])[0] == maps_of(IDS[:2])).all()
    assert used.get(IDS[:3])[1].tolist() == [True, True, False]
    used.put(IDS[2:3], maps_of(IDS[2:3]))
    assert used.get(IDS[:3])[1].all()
    assert store(tmp_path / "saliency").get(IDS[:3])[1].tolist() == [False, False, True]


# --- several writers ---------------------------------------------------------------------------------------------

_WRITE = """
import sys, numpy as np
from pathlib import Path
from harness_patchdrop.saliency_store import DiskMaps
store = DiskMaps(Path(sys.argv[1]), ["model", 1], 6)
for i in range(0, 300, 3):
    ids = [f"image-{i + j}" for j in range(3)]
    _, known = store.get(ids)
    missing = [name for name, there in zip(ids, known) if not there]
    if missing:
        store.put(missing, np.array([[int(name[6:]) * 10 + cell for cell in range(6)] for name in missing], np.int32))
"""


def test_two_processes_that_write_at_once_do_no_harm(tmp_path):
    running = [subprocess.Popen([sys.executable, "-c", _WRITE, str(tmp_path)]) for _ in range(2)]
    assert [process.wait(60) for process in running] == [0, 0]
    ids = [f"image-{i}" for i in range(300)]
    maps, known = store(tmp_path).get(ids)
    assert known.all()
    assert (maps == [[i * 10 + cell for cell in range(CELLS)] for i in range(300)]).all()
    assert all(file.stat().st_size % ROW_BYTES == 0 for file in segments(tmp_path))


def test_each_writer_appends_to_a_file_of_its_own_and_so_does_a_process_forked_off(tmp_path, monkeypatch):
    first, second = store(tmp_path), store(tmp_path)
    first.put(IDS[:1], maps_of(IDS[:1]))
    second.put(IDS[1:2], maps_of(IDS[1:2]))
    assert len(segments(tmp_path)) == 2
    monkeypatch.setattr(saliency_store, "writer_tag", lambda: "host.12345")
    first.put(IDS[2:3], maps_of(IDS[2:3]))
    assert len(segments(tmp_path)) == 3
    assert first.get(IDS[:3])[1].all()


# --- memory ------------------------------------------------------------------------------------------------------


def test_memory_does_not_grow_with_the_maps_that_lie_on_disk(tmp_path):
    images, cells, at_once = 8000, 1000, 500
    reader, writer = (DiskMaps(tmp_path, "large", cells) for _ in range(2))
    tracemalloc.start()
    try:
        for start in range(0, images, at_once):
            ids = [f"image-{i}" for i in range(start, start + at_once)]
            writer.put(ids, np.full((at_once, cells), start, np.int32))
            assert (reader.get(ids)[0] == start).all()
        held, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert held < images * 4 * cells / 20


def test_maps_in_memory_make_room_for_those_used_later():
    kept = MemoryMaps(CELLS, limit_bytes=3 * 4 * CELLS)
    kept.put(IDS[:3], maps_of(IDS[:3]))
    kept.get(IDS[:1])
    kept.put(IDS[3:4], maps_of(IDS[3:4]))
    assert kept.get(IDS[:4])[1].tolist() == [True, False, True, True]


def test_maps_in_memory_are_copies():
    kept, maps = MemoryMaps(CELLS), maps_of(IDS[:1])
    kept.put(IDS[:1], maps)
    maps[:] = 0
    assert (kept.get(IDS[:1])[0] == maps_of(IDS[:1])).all()
