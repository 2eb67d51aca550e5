"""From raw scores to probabilities: curves fitted on data later than the training data."""

import msgspec
import numpy as np
import numpy.typing as npt

from model.data.windows import WINDOW_FEATURES

#: Window features for which a curve says how rare large values are.
TAILS = ("clicks_1m", "distinct_items", "purchases_1h", "amount_24h")
_KNOTS = 256


class Curve(msgspec.Struct, frozen=True):
    """A piecewise linear function, constant beyond its ends."""

    x: list[float]
    y: list[float]

    def __call__(self, values: npt.NDArray[np.floating]) -> npt.NDArray[np.float32]:
        """Return the function's values, float32, in the shape of the argument."""
        return np.interp(values, self.x, self.y).astype(np.float32)


class Calibration(msgspec.Struct, frozen=True):
    """All curves of one model.

    Surprises and tails map to log p-values: the share of later events that are at least as extreme, including the
    event itself. So it is never below 1 / (n + 1), the smallest share that n events can show.
    """

    purchase: Curve  # raw score -> probability
    surprise: Curve  # of events without a known item: surprise -> log p
    surprise_item: Curve  # of events with a known item
    tails: dict[str, Curve]  # name in TAILS: value -> log p
    boost: float  # weight of the followers' strength in the item score
    events: int  # how many events the curves were fitted on


def tail_curve(sample: npt.NDArray[np.floating]) -> Curve:
    """Return value -> log P(at least this value) of a sample, thinned to knots dense in the upper tail.

    p = (1 + number of sample values >= x) / (n + 1), the conformal p-value (Vovk et al. 2005); an empty
    sample gives p = 1 everywhere.
    """
    n = len(sample)
    if n == 0:
        return Curve([0.0], [0.0])
    values, counts = np.unique(sample.astype(np.float64), return_counts=True)
    at_least = np.cumsum(counts[::-1])[::-1]
    log_p = np.log((1.0 + at_least) / (n + 1.0))
    if len(values) > _KNOTS:
        wanted = np.linspace(0.0, log_p[-1], _KNOTS)
        kept = np.unique(np.searchsorted(-log_p, -wanted).clip(0, len(values) - 1))
        values, log_p = values[kept], log_p[kept]
    beyond = np.nextafter(values[-1], np.inf)
    return Curve([*values.tolist(), float(beyond)], [*log_p.tolist(), float(np.log(1.0 / (n + 1.0)))])


def tails(windows: npt.NDArray[np.float32]) -> dict[str, Curve]:
    """Return the tail curve of every feature in TAILS from window features (n, W)."""
    return {name: tail_curve(windows[:, WINDOW_FEATURES.index(name)]) for name in TAILS}


def purchase_curve(raw: npt.NDArray[np.float32], bought: npt.NDArray[np.bool_]) -> Curve:
    """Return raw score -> probability: isotonic if there are enough purchases, else Platt, else the rate.

    Isotonic regression after Zadrozny and Elkan 2002; a logistic fit (Platt 1999) below 200 of either class,
    because the steps would follow noise. With fewer than 5 of either class the curve is the smoothed base rate.
    """
    positives, n = int(bought.sum()), len(bought)
    few = min(positives, n - positives)
    if few < 5:
        return Curve([0.0], [(positives + 1.0) / (n + 2.0)] if positives else [1.0 / (n + 2.0)])
    if few < 200:
        from sklearn.linear_model import LogisticRegression

        fitted = LogisticRegression(C=1e3).fit(raw[:, None].astype(np.float64), bought)
        knots = np.linspace(float(raw.min()) - 3.0, float(raw.max()) + 3.0, 65)
        return Curve(knots.tolist(), fitted.predict_proba(knots[:, None])[:, 1].tolist())
    from sklearn.isotonic import IsotonicRegression

    steps = IsotonicRegression(out_of_bounds="clip").fit(raw.astype(np.float64), bought.astype(np.float64))
    # No score is certain: the ends stay as far from 0 and 1 as n events leave room for doubt.
    y = np.clip(steps.y_thresholds_, 1.0 / (n + 2.0), 1.0 - 1.0 / (n + 2.0))
    return Curve(steps.X_thresholds_.tolist(), y.tolist())
