"""What can be wrong with a model, in words for a person."""


class ModelError(Exception):
    """A model folder is missing, damaged, not signed or of another format; the text says what to do."""
