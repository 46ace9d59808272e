"""Probes: ways to read a model's outputs."""
