"""The embedded study: a generated dataset with exact ground truth, and small networks trained on it."""
