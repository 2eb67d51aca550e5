"""Counts imports between rooms: `python -m tests.rooms`.

A room is a folder directly below a package, or a single file at the top of the package. An import counts once per
file and other room of the same package, wherever it is in the file.
"""

import ast
from collections import Counter
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).parents[1]
PACKAGES = ("stream_app", "model")


class Folder(NamedTuple):
    """The Python files directly in a folder, and their lines."""

    files: int
    lines: int


def modules(package: str) -> dict[str, Path]:
    """Return all modules of a package by their dotted names."""
    found = {}
    for path in (ROOT / package).rglob("*.py"):
        parts = path.relative_to(ROOT).with_suffix("").parts
        found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return found


def room(module: str) -> str:
    """Return the room of a module, such as `stream_app.kafka`; the package itself is also a room."""
    return ".".join(module.split(".")[:2])


def imported(module: str, path: Path) -> set[str]:
    """Return the dotted names of everything that a file imports; a name from a module is `module.name`."""
    names = set()
    package = module.split(".") if path.name == "__init__.py" else module.split(".")[:-1]
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            above = package[: len(package) - node.level + 1] if node.level else []
            source = ".".join([*above, *filter(None, [node.module])])
            names |= {f"{source}.{alias.name}" for alias in node.names}
    return names


def imports(package: str) -> Counter[tuple[str, str]]:
    """Return how many files of one room import another room, by both rooms."""
    found = modules(package)
    arrows: Counter[tuple[str, str]] = Counter()
    for module, path in found.items():
        targets = {name if name in found else name.rpartition(".")[0] for name in imported(module, path)}
        arrows.update(
            (room(module), other) for other in {room(t) for t in targets & found.keys()} - {room(module)}
        )
    return arrows


def folders(package: str) -> dict[str, Folder]:
    """Return every folder with Python files, by its path from the root."""
    paths: dict[str, list[Path]] = {}
    for path in modules(package).values():
        paths.setdefault(str(path.parent.relative_to(ROOT)), []).append(path)
    return {
        name: Folder(
            len(files),
            sum(len(file.read_text().splitlines()) for file in files),
        )
        for name, files in paths.items()
    }


def rooms(package: str) -> tuple[list[str], list[str]]:
    """Return the folders at the top of a package, and the single files there."""
    top = {module.split(".")[1] for module in modules(package) if "." in module}
    inside = {name for name in top if (ROOT / package / name).is_dir()}
    return sorted(inside), sorted(top - inside)


def main() -> None:
    """Print for each package its rooms, the imports between them, and the pairs of rooms with the most imports."""
    for package in PACKAGES:
        inside, alone = rooms(package)
        arrows = imports(package)
        print(f"{package}: {arrows.total()} imports between rooms, {len(arrows)} pairs of rooms")
        print(f"  {len(inside)} folders: {', '.join(inside)}")
        print(f"  files at the top: {', '.join(alone) or 'none'}")
        for (source, target), count in arrows.most_common(10):
            print(f"  {count:4}  {source} -> {target}")
        name, largest = max(folders(package).items(), key=lambda each: each[1].lines)
        print(f"  the largest folder is {name}: {largest.files} files, {largest.lines:,} lines")


if __name__ == "__main__":
    main()
