"""The demonstration: train on handwritten digits, sample with many solvers, compare."""
