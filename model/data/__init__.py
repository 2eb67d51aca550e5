"""What a model learns from: interactions as columns, features, vocabularies, sequences, calibration curves.

It imports nothing of this project.
"""
