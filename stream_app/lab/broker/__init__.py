"""A real Apache Kafka (KRaft, one node) for demo, tests and development, without Docker or an installed Java.

It may touch its cache folder (one copy of Kafka per user), the data folder it is given, ports of 127.0.0.1, and
the one Java process that it starts. It knows nothing of the rest of Foreclick.
"""

from stream_app.lab.broker.config import Listener
from stream_app.lab.broker.embedded import EmbeddedKafka, status
from stream_app.lab.broker.errors import (
    BrokerEndedError,
    BrokerError,
    BrokerExitedError,
    DownloadError,
    FolderError,
    FolderInUseError,
    JavaError,
    NoFreePortError,
    NotReadyError,
    NotRunningError,
    PortTakenError,
)
from stream_app.lab.broker.process import BrokerInfo

__all__ = [
    "BrokerEndedError",
    "BrokerError",
    "BrokerExitedError",
    "BrokerInfo",
    "DownloadError",
    "EmbeddedKafka",
    "FolderError",
    "FolderInUseError",
    "JavaError",
    "Listener",
    "NoFreePortError",
    "NotReadyError",
    "NotRunningError",
    "PortTakenError",
    "status",
]
