"""Makes the doubles importable by name, as the entries of a plugin are."""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))
