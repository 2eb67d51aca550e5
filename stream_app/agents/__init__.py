"""Faust agents and the app that each belongs to. The first thing to read: one file a topology.

An agent only receives: it hands whole fetched batches to the worker's pipeline, or, for slow work such as asking a
language model, handles one record at a time. May import everything that a worker is made of; nothing but `commands`
imports it.
"""
