"""Attacks on a real worker: it must survive, answer the valid events after each attack, and stay within its memory.

`python -m tests.attack` runs all of them on the embedded broker. Each attack is a function of an `Attacked` worker;
the lists `ALL` of `batches` and `events` group them by target.
"""
