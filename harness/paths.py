"""Where the harness keeps what it may throw away: one cache folder, by environment."""

from __future__ import annotations

import os
from pathlib import Path

from harness.errors import UsageError


def cache_dir() -> Path:
    """The cache folder, which need not exist yet.

    ``HARNESS_CACHE_DIR`` if set; else ``harness`` in ``XDG_CACHE_HOME`` (which counts only if absolute, as the XDG
    base directory specification says); else ``~/.cache/harness``.
    """
    own = os.environ.get("HARNESS_CACHE_DIR")
    if own:
        return Path(own).expanduser()
    xdg = Path(os.environ.get("XDG_CACHE_HOME", ""))
    return (xdg if xdg.is_absolute() else Path.home() / ".cache") / "harness"


def ensure_cache_dir(sub: str = "") -> Path:
    """``sub`` inside the cache folder, made if missing.

    Raises :class:`~harness.errors.UsageError` where it cannot be made or written to.
    """
    folder = cache_dir() / sub
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise _unwritable(folder, error.strerror or str(error)) from error
    if not os.access(folder, os.W_OK | os.X_OK):
        raise _unwritable(folder, "no permission to write")
    return folder


def _unwritable(folder: Path, reason: str) -> UsageError:
    return UsageError(
        f"the cache folder {folder} cannot be written to: {reason}",
        hint="set HARNESS_CACHE_DIR to a folder that you may write to",
    )
