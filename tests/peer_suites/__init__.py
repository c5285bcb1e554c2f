"""Peers' own test suites, run against them and against fastgen's drop-ins."""
