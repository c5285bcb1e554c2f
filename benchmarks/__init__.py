"""Benchmarks: `python -m benchmarks` times fastgen beside what a user would pick instead."""
