"""Arrays of a cell on disk: what comes back, whose they are, and what is said of files that are no good."""

from __future__ import annotations

import numpy as np
import pytest
from safetensors import safe_open

from harness.array_files import array_path, read_arrays, write_arrays
from harness.errors import RecordsError

KEY = "0123456789abcdef" * 4
ARRAYS = {
    "mean.map": np.linspace(0, 1, 12).reshape(3, 4),
    "shown.images": np.arange(24, dtype=np.uint8).reshape(2, 3, 2, 2)[::-1],
    "count": np.array(7),
    "empty": np.empty((0, 5), np.float32),
}


def test_arrays_come_back_as_they_were(tmp_path):
    write_arrays(tmp_path, KEY, ARRAYS, cell={"model": "vit"})
    found = read_arrays(tmp_path, KEY)
    assert set(found) == set(ARRAYS)
    for name, values in ARRAYS.items():
        assert found[name].dtype == values.dtype
        np.testing.assert_array_equal(found[name], values)


def test_the_file_says_whose_arrays_it_holds(tmp_path):
    path = write_arrays(tmp_path, KEY, ARRAYS, cell={"model": "vit", "level": 0.5})
    assert path == array_path(tmp_path, KEY) == tmp_path / "artifacts" / "arrays" / f"{KEY[:16]}.safetensors"
    with safe_open(path, framework="numpy") as file:
        assert file.metadata() == {"key": KEY, "cell": '{"model": "vit", "level": 0.5}'}


def test_a_missing_file_says_how_to_get_it_again(tmp_path):
    with pytest.raises(RecordsError, match="there is no such file") as caught:
        read_arrays(tmp_path, KEY)
    assert "run the same command again" in caught.value.hint


def test_arrays_of_another_cell_are_refused(tmp_path):
    write_arrays(tmp_path, KEY, ARRAYS, cell={})
    other = KEY[:16] + "f" * 48
    with pytest.raises(RecordsError, match="arrays of another cell"):
        read_arrays(tmp_path, other)


def test_a_damaged_file_is_called_damaged(tmp_path):
    path = write_arrays(tmp_path, KEY, ARRAYS, cell={})
    path.write_bytes(path.read_bytes()[:40])
    with pytest.raises(RecordsError, match="is damaged"):
        read_arrays(tmp_path, KEY)
