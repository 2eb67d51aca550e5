"""Attacks on a real worker, which must live, answer the good events behind each, and stay within its memory.

`python -m tests.attack` runs them all on the embedded broker. Each is one function of an `Attacked` worker; they
stand in lists by what they are aimed at, so that others can be added beside them.
"""
