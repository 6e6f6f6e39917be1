"""Instructions executed, counted and held to a baseline: ``python -m benchmarks.instructions``."""
