"""A descriptor module as it should be: it imports nothing heavy."""

SIDE = 32
