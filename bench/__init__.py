"""Benchmarks of the gate: `python -m bench`. Figures, no tests; committed in `bench/results`."""
