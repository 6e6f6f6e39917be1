"""Everything against everyone: ``python -m benchmarks.race``."""
