"""Small components that keep every promise, and doubles of them that each break one on purpose."""
