"""Fuzzers of all code that reads bytes from outside: `python -m tests.fuzz.run --help`, and docs/fuzzing.md."""
