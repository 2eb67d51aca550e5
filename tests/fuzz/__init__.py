"""Fuzzing of all that reads bytes which others wrote: `python -m tests.fuzz.run --help`, and docs/fuzzing.md."""
