"""What a machine with one GPU measures: `bash benchmarks/gpu.sh`, `python -m benchmarks.gpu`."""
