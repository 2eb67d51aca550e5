"""Errors of the embedded broker; each says in one sentence what to do."""

from pathlib import Path

from stream_app.errors import ForeclickError


class BrokerError(ForeclickError):
    """Base class of all failures of the embedded broker; the message is for the user."""


class DownloadError(BrokerError):
    """The broker's jars are not in the cache and could not be fetched."""

    def __init__(self, repository: str, cache: Path, cause: object) -> None:
        super().__init__(
            f"The first start fetches Kafka from {repository}, which failed ({cause}): connect to the "
            "network (or set FORECLICK_MAVEN_URL to a mirror and REQUESTS_CA_BUNDLE to its certificates), "
            f"or copy a filled cache folder to {cache}."
        )


class InsecureRepositoryError(BrokerError):
    """The repository would be contacted without TLS."""

    def __init__(self, url: str) -> None:
        super().__init__(
            f"FORECLICK_MAVEN_URL is {url}: use https, since programs come from there; http is accepted for "
            "this machine's own addresses only."
        )


class ForgedJarError(BrokerError):
    """A jar differs from the published one."""

    def __init__(self, jar: str, source: str) -> None:
        super().__init__(
            f"{jar} from {source} does not have the SHA-256 of the published file: it was damaged or changed "
            "on the way, and Kafka is not started; try again, or use another repository."
        )


class FolderInUseError(BrokerError):
    """Another broker runs, or is being started, on this data folder."""

    def __init__(self, folder: Path, holder: str) -> None:
        super().__init__(
            f"The data folder {folder} is in use by {holder}: stop that one (foreclick broker stop), "
            "or choose another folder."
        )


class PortTakenError(BrokerError):
    """Something else listens on the requested port."""

    def __init__(self, port: int) -> None:
        super().__init__(
            f"Port {port} of 127.0.0.1 is taken by another program: choose another one, or 0 for a free one."
        )


class NoFreePortError(BrokerError):
    """No free port was found."""

    def __init__(self, first: int, last: int) -> None:
        super().__init__(
            f"No free port was found on 127.0.0.1 between {first} and {last}: choose a port yourself."
        )


class BrokerExitedError(BrokerError):
    """The Java process ended before the broker was ready."""

    def __init__(self, code: int | None, log: Path, last_lines: str) -> None:
        super().__init__(f"Kafka ended with exit code {code} before it was ready (log: {log}):\n{last_lines}")


class BrokerEndedError(BrokerError):
    """The Java process ended although nobody had stopped it."""

    def __init__(self, code: int | None, log: Path) -> None:
        super().__init__(f"Kafka ended by itself with exit code {code}: see {log}.")


class NotReadyError(BrokerError):
    """The broker did not answer in time, and has been stopped again."""

    def __init__(self, timeout_s: float, waiting_for: str, log: Path) -> None:
        super().__init__(
            f"Kafka was not ready within {timeout_s:g} s (still waiting for: {waiting_for}): "
            f"see {log}, or allow more time."
        )


class NotRunningError(BrokerError):
    """There is no broker on this data folder."""

    def __init__(self, folder: Path) -> None:
        super().__init__(
            f"No broker runs on the data folder {folder}: start one with foreclick broker start."
        )


class JavaError(BrokerError):
    """Java could not be started, or its tool that formats the storage failed."""

    def __init__(self, what: str, output: str) -> None:
        super().__init__(f"{what} failed; the end of its output:\n{output}")


class FolderError(BrokerError):
    """A folder is not writable."""

    def __init__(self, folder: Path, cause: OSError) -> None:
        super().__init__(
            f"The broker's folder {folder} cannot be written ({cause.strerror or cause}): "
            "free some space, fix its permissions, or choose another folder."
        )
