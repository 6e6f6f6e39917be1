"""``python -m benchmarks`` prints the table of `benchmarks.bench_step`."""

from benchmarks.bench_step import main

if __name__ == "__main__":
    raise SystemExit(main())
