"""Recordings from and to Kafka."""

from stream_app.replay.capture import CaptureStats, record
from stream_app.replay.publish import ReplayStats, replay

__all__ = ["CaptureStats", "ReplayStats", "record", "replay"]
