"""Errors that a person can act on: each one's text is one clear sentence that says what to do."""

from collections.abc import Sequence


class ForeclickError(Exception):
    """Base of all errors meant for the user; the command line prints its text and exits with code 1."""


class SettingsError(ForeclickError):
    """One or more settings are wrong; `problems` holds a sentence for each of them."""

    def __init__(self, problems: Sequence[str]) -> None:
        self.problems = tuple(problems)
        count = len(self.problems)
        head = "1 setting is wrong" if count == 1 else f"{count} settings are wrong"
        super().__init__("\n".join((f"{head}:", *(f"  - {problem}" for problem in self.problems))))
