"""A virtual environment for each engine, apart from the project's own: made by uv, kept in the user's cache.

`requirements/NAME.txt` pins every package of an environment. A changed file makes a new environment.
"""

import hashlib
import importlib.util
import shutil
import subprocess
import sys
from pathlib import Path

from stream_app.lab.broker.installation import cache_dir
from stream_app.lab.broker.locks import file_lock
from stream_app.lab.commands.bench import BenchError

REQUIREMENTS = Path(__file__).parent / "requirements"
INSTALL_LIMIT_S = 900
#: The last version with wheels of Bytewax; all engines get the same Python.
NEWEST = (3, 12)


def peers_dir() -> Path:
    """Return the folder of the cache that holds the engines."""
    return cache_dir() / "peers"


def python_of(name: str) -> Path:
    """Return the Python of an environment; make the environment if it does not exist. Raises BenchError."""
    wanted = (REQUIREMENTS / f"{name}.txt").read_bytes()
    version = _python_version()
    tag = hashlib.sha256(wanted + version.encode()).hexdigest()[:12]
    folder = peers_dir() / f"{name}-{tag}"
    python, ready = folder / "bin" / "python", folder / "ready"
    with file_lock(peers_dir() / f"{name}.lock"):
        if not ready.exists():
            shutil.rmtree(folder, ignore_errors=True)
            _uv("venv", "--python", version, str(folder))
            _uv(
                "pip", "install", "--python", str(python), "--requirements", str(REQUIREMENTS / f"{name}.txt")
            )
            ready.touch()
    return python


def pinned(name: str) -> dict[str, str]:
    """Return the version of each package of an environment."""
    lines = (REQUIREMENTS / f"{name}.txt").read_text().split()
    return dict(line.split("==", 1) for line in lines)


def _python_version() -> str:
    """Return which Python uv should use: this one if all engines run on it."""
    return sys.executable if sys.version_info[:2] <= NEWEST else ".".join(map(str, NEWEST))


def _uv(*arguments: str) -> None:
    """Run uv. Raises BenchError with the end of its output."""
    own = importlib.util.find_spec("uv") is not None
    command = [sys.executable, "-m", "uv"] if own else ["uv"]
    try:
        done = subprocess.run(
            [*command, "--quiet", *arguments],
            capture_output=True,
            text=True,
            timeout=INSTALL_LIMIT_S,
            check=False,
        )
    except FileNotFoundError:
        raise BenchError("uv is needed to install the other engines: python -m pip install uv") from None
    except subprocess.TimeoutExpired:
        raise BenchError(f"uv {arguments[0]} took longer than {INSTALL_LIMIT_S} s") from None
    if done.returncode:
        raise BenchError(f"uv {arguments[0]} failed: {_last_line(done.stderr)}")


def _last_line(text: str) -> str:
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return lines[-1] if lines else "no output"
