"""What is in a recording, and what is wrong with it: numbers for people, before a model learns from it.

`measure` computes them from the events alone, without the state of a worker; `page` draws them.
"""
