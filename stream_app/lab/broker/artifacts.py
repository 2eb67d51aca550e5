"""Kafka's jars: jgo resolves and fetches them in pure Python, so neither Maven nor Java is needed.

Each jar must have the SHA-256 listed in `jars.sha256`, whether it comes from the repository, a mirror or a proxy.
After a change of `COORDINATES`, make that file again with `sha256sum *.jar` from a download over TLS.
"""

import hashlib
import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from ipaddress import ip_address
from pathlib import Path
from urllib.parse import urlsplit

from stream_app.lab.broker.errors import DownloadError, ForgedJarError, InsecureRepositoryError
from stream_app.lab.broker.installation import KAFKA_VERSION

#: `!` keeps the dependency management of one project from affecting the others: without it, log4j's pom would
#: bring kafka-clients 3.8.0 to a 4.1.0 broker.
COORDINATES = (
    f"org.apache.kafka:kafka_2.13:{KAFKA_VERSION}!",
    "org.apache.logging.log4j:log4j-slf4j-impl:2.24.3!",
)
#: SHA-256 and name of each jar, as `sha256sum` writes them.
PINS = Path(__file__).with_name("jars.sha256")
DOWNLOADS_AT_ONCE = 8
REQUEST_LIMIT_S = 30


def download(folder: Path) -> tuple[str, ...]:
    """Fetch all jars below `folder`; return their paths relative to it.

    Raises DownloadError, ForgedJarError, InsecureRepositoryError, OSError.
    """
    # Imported only here: later starts do not need jgo, which takes 0.2 s to import. Its `build` is not used: it would
    # fetch a second Java to sort the jars into modules, which a class path does not have.
    import requests
    from jgo.maven import MavenContext

    url = repository_url()
    context = MavenContext(repo_cache=folder / "maven", remote_repos={"maven": url}, timeout=REQUEST_LIMIT_S)
    try:
        wanted = [context.create_dependency(coordinate) for coordinate in COORDINATES]
        named, brought = context.resolver.resolve(wanted)
        needed = [d.artifact for d in (*named, *(d for d in brought if d.scope in ("compile", "runtime")))]
        with ThreadPoolExecutor(DOWNLOADS_AT_ONCE) as pool:
            paths = list(pool.map(lambda artifact: artifact.resolve(), needed))
    except (requests.RequestException, RuntimeError) as error:
        raise DownloadError(url, folder.parent, _first_cause(error)) from error
    check(paths, url)
    return tuple(str(path.relative_to(folder)) for path in paths)


def repository_url() -> str:
    """Return the Maven repository that jars are fetched from. Raises InsecureRepositoryError."""
    from jgo.constants import MAVEN_CENTRAL_URL

    url = os.environ.get("FORECLICK_MAVEN_URL", MAVEN_CENTRAL_URL).rstrip("/")
    if not is_private(url):
        raise InsecureRepositoryError(url)
    return url


def is_private(url: str) -> bool:
    """Whether no third party can read or change a download from this URL: it uses TLS or a server on this machine."""
    parts = urlsplit(url)
    if parts.scheme == "https":
        return True
    host = parts.hostname or ""
    try:
        return parts.scheme == "http" and (host == "localhost" or ip_address(host).is_loopback)
    except ValueError:
        return False


def check(jars: Sequence[Path], source: str) -> None:
    """Raise ForgedJarError for a jar that differs from the published one, or that is not in the list."""
    pins = {name: digest for digest, name in (line.split() for line in PINS.read_text().splitlines())}
    for jar in jars:
        if hashlib.sha256(jar.read_bytes()).hexdigest() != pins.get(jar.name):
            raise ForgedJarError(jar.name, source)


def _first_cause(error: BaseException) -> str:
    """Return the text of the innermost error, since requests wraps the error that says what happened."""
    while (cause := error.__cause__ or error.__context__) is not None:
        error = cause
    return f"{type(error).__name__}: {error}"
