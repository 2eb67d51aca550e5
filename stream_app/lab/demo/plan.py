"""The plan of a demo: what it runs and where it stores files."""

from enum import StrEnum
from pathlib import Path

import msgspec

from stream_app.errors import ForeclickError
from stream_app.lab.generator import GeneratorSettings
from stream_app.lab.generator.settings import DAY_S, EVENTS_PER_USER_DAY

#: Events per user in the history: about one day of the shop.
_EVENTS_PER_USER = 32


class DemoError(ForeclickError):
    """The demo cannot continue."""


class Data(StrEnum):
    """What the demo learns from and replays."""

    GENERATED = "generated"  #: a made-up shop, with planted bots, fraud and malformed records
    COMPLETE_JOURNEY = "complete-journey"  #: purchases in grocery stores, from an installed package


class Plan(msgspec.Struct, frozen=True, kw_only=True):
    """Size and folder of a demo."""

    folder: Path
    data: Data = Data.GENERATED
    events: int = 160_000  #: records of the history that the model learns from
    rate: int = 1_500  #: live records per second
    seconds: int = 45  #: of live traffic
    seed: int = 7
    epochs: int = 6
    partitions: int = 4

    @property
    def live(self) -> int:
        """Records of live traffic."""
        return self.rate * self.seconds

    @property
    def users(self) -> int:
        """Users of the shop."""
        return max(400, self.events // _EVENTS_PER_USER)

    @property
    def data_dir_option(self) -> str:
        """The option with which a command finds this demo."""
        return "" if self.folder == Path(".foreclick/demo") else f" --data-dir {self.folder.parent}"

    @property
    def history(self) -> Path:
        """The recording that the model learns from."""
        return self.folder / "history.stream"

    @property
    def live_recording(self) -> Path:
        """The recording that is replayed."""
        return self.folder / "live.stream"

    @property
    def model(self) -> Path:
        """The model folder."""
        return self.folder / "model"

    @property
    def broker(self) -> Path:
        """The broker's data folder, which each demo creates again."""
        return self.folder / "broker"

    @property
    def worker_log(self) -> Path:
        """The log of the worker."""
        return self.folder / "worker.log"

    def shop(self, start_ms: int) -> GeneratorSettings:
        """The shop from `start_ms` on: first the history, then the live traffic.

        There is no daily rhythm, so the traffic is the same for any start; only its times differ.
        """
        # More events than most demos use, so that a longer live part does not change the history.
        events = max(4 * self.events, self.events + self.live)
        return GeneratorSettings(
            events=events,
            users=self.users,
            items=min(3_000, max(300, self.events // 40)),
            categories=60,
            seed=self.seed,
            partitions=self.partitions,
            start_ms=start_ms,
            span_s=events / (self.users * EVENTS_PER_USER_DAY) * DAY_S,
            rhythm=0.0,
            bot_share=0.02,  # more than a real shop has, so that one minute shows some
            fraud_share=0.004,
        )

    def seconds_of(self, events: int) -> float:
        """Seconds of shop time that so many records fill."""
        return events / (self.users * EVENTS_PER_USER_DAY) * DAY_S
