"""Small image folders for these tests."""

import numpy as np
import pytest
from PIL import Image


@pytest.fixture
def draw(tmp_path):
    """Write images of noise under ``tmp_path``, each unlike the others, by their paths; return the root."""

    def _draw(*names, root="root", size=(20, 16), **options):
        folder = tmp_path / root
        for name in names:
            path = folder / name
            path.parent.mkdir(parents=True, exist_ok=True)
            pixels = np.random.default_rng(list(name.encode())).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
            Image.fromarray(pixels).save(path, **options)
        return folder

    return _draw
