"""Benchmarks: one script for each hot path, figures in README.md."""
