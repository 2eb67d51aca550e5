"""Errors of models; their texts are for users."""

NOT_FINITE = "the model's answers are NaN: its weights are damaged, train it again or restore its folder"


class ModelError(Exception):
    """A model folder is missing, damaged, not signed or of another format; the text says what to do."""


class TrainingError(ModelError, ValueError):
    """The data or the settings are such that no model can be trained; the text says what to do."""
