"""What is measured: accuracy, throughput, uploads, latency. `python -m benchmarks --help` lists the benchmarks."""
