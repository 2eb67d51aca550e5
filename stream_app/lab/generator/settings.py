"""The settings of the generator."""

import msgspec

from stream_app.errors import ForeclickError

#: Mean events of a session and seconds between two of them; `sessions` draws around these.
SESSION_EVENTS = 8.0
THINK_MEDIAN_S, THINK_SIGMA = 12.0, 1.0
THINK_MEAN_S = 19.8  # of the log-normal: median * exp(sigma^2 / 2)
#: Events per user and day if no span is given.
EVENTS_PER_USER_DAY = 30.0
DAY_S = 86_400.0


class GeneratorError(ForeclickError):
    """The settings of the generator allow no traffic."""


class GeneratorSettings(msgspec.Struct, frozen=True, kw_only=True):
    """Size, time and trouble of the traffic; the same settings give the same bytes.

    Raises `GeneratorError` for impossible values.
    """

    events: int = 100_000  #: records in all, including invalid and duplicate ones
    users: int = 5_000
    items: int = 5_000
    categories: int = 100
    seed: int = 1
    partitions: int = 4
    start_ms: int = 1_767_225_600_000  #: Unix ms of the first visit; 2026-01-01 00:00 UTC
    span_s: float | None = (
        None  #: seconds of shop time that the events fill; None: 30 events per user and day
    )
    time_compression: float = 1.0  #: how many seconds of shop time pass in one second of event time
    rhythm: float = 0.7  #: 0: no difference between day and night, 1: nobody at 8 in the morning
    user_zipf: float = 0.8  #: exponent of the users' activity
    item_zipf: float = 1.0  #: exponent of the items' popularity
    msgpack_share: float = 0.2  #: share of the values; the others are JSON
    bot_share: float = 0.01  #: share of the events that bots make
    fraud_share: float = 0.001  #: share of the events that are purchases with stolen accounts
    late_share: float = 0.005  #: share of the events that have an older time than their neighbours
    duplicate_share: float = 0.005  #: share of the records that are sent a second time
    malformed_share: float = 0.002  #: share of the records that break the contract

    def __post_init__(self) -> None:
        for name in ("events", "users", "items", "categories", "partitions"):
            if getattr(self, name) < 1:
                raise GeneratorError(f"{name} must be 1 or more, not {getattr(self, name)}")
        shares = ("rhythm", "msgpack_share", "bot_share", "fraud_share", "late_share", "duplicate_share")
        for name in (*shares, "malformed_share"):
            if not 0 <= getattr(self, name) <= 1:
                raise GeneratorError(f"{name} must lie between 0 and 1, not {getattr(self, name)}")
        if self.bot_share + self.fraud_share + self.duplicate_share + self.malformed_share > 0.9:
            raise GeneratorError(
                "bots, fraud, duplicates and malformed records leave less than a tenth: lower them"
            )
        if self.items < self.categories:
            raise GeneratorError(
                f"{self.items} items cannot fill {self.categories} categories: lower categories"
            )
        if self.seed < 0 or self.start_ms < 0 or not self.time_compression > 0 or self.user_zipf < 0:
            raise GeneratorError(
                "seed, start and exponents must not be negative, and the time compression above 0"
            )
        if self.span_s is not None and not self.span_s > 0:
            raise GeneratorError(f"the span must be more than 0 s, not {self.span_s}")
        busy = self.events / self.seconds * THINK_MEAN_S  # users that are in the shop at the same time
        if busy * 1.5 > self.users:
            raise GeneratorError(
                f"{self.users} users cannot make {self.events} events in {self.seconds:.0f} s: "
                f"take at least {int(busy * 1.5) + 1} users or a longer span"
            )

    @property
    def seconds(self) -> float:
        """Seconds of shop time that the events cover."""
        return self.span_s or self.events / (self.users * EVENTS_PER_USER_DAY) * DAY_S
