"""Inspections: what happens inside a backbone, which cues it goes by, and what it costs."""
