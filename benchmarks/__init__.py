"""Benchmarks of instep against its peers: verified against the float64 twin, then timed."""
