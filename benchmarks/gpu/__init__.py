"""The comparison on a GPU, with models of real shapes and random weights: `python -m benchmarks gpu`, see `measure`."""
