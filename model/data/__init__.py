"""What a model learns from: interactions as columns, features, vocabularies, sequences, calibration curves.

Imports nothing of this project.
"""
