"""Names of what attacks record of each image, which summaries read."""

from __future__ import annotations

ZERO_GRADIENT = "zero_gradient"
"""Fraction of the entries of the image's first gradient that are exactly zero; 0 where no gradient was asked for."""

GRADIENT_STEPS = "gradient_steps"
"""How many gradients the image was moved along, over all restarts."""

ATTACK_SUCCESS = "attack_success"
"""1 where the target is known to miss the result (for a goal: to give it the goal's class), 0 where it does not."""

FIRST_RESTART_SUCCESS = "first_restart_success"
"""The same had there been one restart only; recorded where there were several."""
