"""A descriptor module that imports what it should only name."""

import numpy as np

SIDE = np.int64(32)
