"""Benchmarks; each is a command that appends its figures to `benchmarks/results/`."""
