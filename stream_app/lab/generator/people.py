"""The users: how active each is, what they like at the moment, and where they come from."""

import numpy as np
import numpy.typing as npt

from stream_app.lab.generator.catalogue import TASTES, Catalogue, Floats, Ints, zipf
from stream_app.lab.generator.settings import GeneratorSettings

DEVICES = ("mobile", "desktop", "tablet")
COUNTRIES = ("DE", "FR", "NL", "PL", "ES", "IT", "AT", "SE")
#: Number of categories that a user likes, and how often a user wants each of them.
_FAVOURITES_P = np.array([0.55, 0.25, 0.12, 0.08])
#: Chance that a session replaces one of the user's favourites, and that it changes the taste.
_DRIFT, _TASTE_DRIFT = 0.05, 0.01


class People:
    """U users, then the bots (numbers from U on); interests drift from session to session."""

    def __init__(self, settings: GeneratorSettings, catalogue: Catalogue, rng: np.random.Generator) -> None:
        users = settings.users
        self.users = users
        self.bots = max(1, users // 500)
        self.catalogue = catalogue
        self._activity = np.cumsum(zipf(users, settings.user_zipf, rng))
        favourites = len(_FAVOURITES_P)
        self._favourites = catalogue.category[catalogue.any(rng.random((users, favourites)))]
        self._taste = rng.integers(0, TASTES, users, np.int32)
        self.eagerness = np.minimum(rng.lognormal(np.log(0.02), 0.7, users), 0.2)  # (U,) chance to buy
        everyone = users + self.bots
        self.device = rng.choice(len(DEVICES), everyone, p=[0.6, 0.32, 0.08]).astype(np.int8)
        self.country = rng.choice(len(COUNTRIES), everyone, p=zipf(len(COUNTRIES), 1.0, rng)).astype(np.int8)
        self.busy_until = np.zeros(users)  # (U,) seconds of shop time

    def visitors(self, n: int, rng: np.random.Generator) -> Ints:
        """Return users (n,), drawn by activity."""
        return np.minimum(np.searchsorted(self._activity, rng.random(n)), self.users - 1).astype(np.int32)

    def drift(self, users: Ints, rng: np.random.Generator) -> None:
        """Change the interests of these users a little."""
        moved = users[rng.random(len(users)) < _DRIFT]
        column = rng.integers(0, len(_FAVOURITES_P), len(moved))
        self._favourites[moved, column] = self.catalogue.category[self.catalogue.any(rng.random(len(moved)))]
        moved = users[rng.random(len(users)) < _TASTE_DRIFT]
        self._taste[moved] = rng.integers(0, TASTES, len(moved))

    def taste(self, users: Ints) -> Ints:
        """Return the current taste (n,) of each user."""
        return self._taste[users]

    def interest(self, users: Ints, u: Floats) -> Ints:
        """Return a category (n,) that each user likes at the moment."""
        return self._favourites[users, np.searchsorted(np.cumsum(_FAVOURITES_P)[:-1], u, side="right")]

    def admit(self, users: Ints, start: Floats, length: Floats) -> tuple[Floats, npt.NDArray[np.bool_]]:
        """Return when each session can really start, since a user does one thing after the other.

        Takes users, requested starts and lengths (n,) in seconds; returns starts (n,), and whether each is at most a
        minute late. It reserves nothing yet.
        """
        order = np.lexsort((start, users))
        user, begin, need = users[order], start[order], length[order] + 1.0
        first = np.concatenate([[True], user[1:] != user[:-1]])
        group = np.cumsum(first) - 1
        total = np.cumsum(need)
        before = total - need
        # With D the time needed by earlier sessions of the user, end - D is a running maximum of start - D.
        base = before[first][group]
        ready = np.maximum(begin, self.busy_until[user]) - (before - base)
        shift = group * (np.abs(ready).max(initial=0.0) * 2 + 1)  # keeps the maximum within a user
        real = np.maximum.accumulate(ready + shift) - shift + (before - base)
        result = np.empty_like(start)
        result[order] = real
        return result, result - start <= 60.0
