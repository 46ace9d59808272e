"""The ``harness`` command. Each subcommand is a module of its own, imported when it is asked for."""

from __future__ import annotations

from harness.cli.root import main

__all__ = ["main"]
