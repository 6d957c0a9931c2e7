"""Side by side runs; each appends what it measured to `benchmarks/results/`."""
