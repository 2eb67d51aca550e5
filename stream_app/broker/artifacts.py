"""Kafka's jars: resolved and fetched by jgo, in pure Python, so that neither Maven nor Java is needed."""

import os
import zipfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from stream_app.broker.errors import DownloadError
from stream_app.broker.installation import KAFKA_VERSION

#: `!` keeps a project's own dependency management away from the others: without it, log4j's pom would
#: bring kafka-clients 3.8.0 beside a 4.1.0 broker.
COORDINATES = (
    f"org.apache.kafka:kafka_2.13:{KAFKA_VERSION}!",
    "org.apache.logging.log4j:log4j-slf4j-impl:2.24.3!",
)
DOWNLOADS_AT_ONCE = 8
REQUEST_LIMIT_S = 30


def download(folder: Path) -> tuple[str, ...]:
    """Fetch all jars below `folder`; return their paths relative to it. Raises DownloadError, OSError."""
    # Only now: every later start does without jgo (0.2 s). Its `build` is not used: to sort jars into
    # modules, of which the class path knows nothing, it would fetch a second Java.
    import requests
    from jgo.constants import MAVEN_CENTRAL_URL
    from jgo.maven import MavenContext

    url = os.environ.get("FORECLICK_MAVEN_URL", MAVEN_CENTRAL_URL).rstrip("/")
    context = MavenContext(repo_cache=folder / "maven", remote_repos={"maven": url}, timeout=REQUEST_LIMIT_S)
    try:
        wanted = [context.create_dependency(coordinate) for coordinate in COORDINATES]
        named, brought = context.resolver.resolve(wanted)
        needed = [d.artifact for d in (*named, *(d for d in brought if d.scope in ("compile", "runtime")))]
        with ThreadPoolExecutor(DOWNLOADS_AT_ONCE) as pool:
            paths = list(pool.map(lambda artifact: artifact.resolve(), needed))
        for path in paths:
            _check(path)
    except (requests.RequestException, RuntimeError, zipfile.BadZipFile) as error:
        raise DownloadError(url, folder.parent, _first_cause(error)) from error
    return tuple(str(path.relative_to(folder)) for path in paths)


def _check(jar: Path) -> None:
    """Read the jar once against its checksums: jgo only warns about a damaged one."""
    with zipfile.ZipFile(jar) as archive:
        if damaged := archive.testzip():
            raise zipfile.BadZipFile(f"{jar.name}: {damaged} is damaged")


def _first_cause(error: BaseException) -> str:
    """Return the words of the innermost error: that is where requests hides what happened."""
    while (cause := error.__cause__ or error.__context__) is not None:
        error = cause
    return f"{type(error).__name__}: {error}"
