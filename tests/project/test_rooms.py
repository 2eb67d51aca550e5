"""Both packages have few folders, none too large, and few imports between them (CONTRIBUTING, "Rooms")."""

from pathlib import Path

import pytest

from tests import rooms

#: Imports between rooms at most. New files need a few more: then look first whether they are in the right room.
IMPORTS = {"stream_app": 216, "model": 60}
FOLDERS = {"stream_app": 14, "model": 9}
ALONE = {"stream_app": {"cli", "errors"}, "model": set()}
FILES_OF_A_FOLDER = 15
LINES_OF_A_FOLDER = 3_000


@pytest.mark.parametrize("package", rooms.PACKAGES)
def test_the_top_of_a_package_is_a_table_of_contents(package: str) -> None:
    """Each package has few folders, and only the single files that are listed here."""
    inside, alone = rooms.rooms(package)
    assert 5 <= len(inside) <= FOLDERS[package], inside
    assert set(alone) <= ALONE[package]


@pytest.mark.parametrize("package", rooms.PACKAGES)
def test_no_folder_is_too_full(package: str) -> None:
    """A folder has at most 15 Python files and 3,000 lines directly in it."""
    full = {
        name: folder
        for name, folder in rooms.folders(package).items()
        if folder.files > FILES_OF_A_FOLDER or folder.lines > LINES_OF_A_FOLDER
    }
    assert not full


@pytest.mark.parametrize("package", rooms.PACKAGES)
def test_rooms_import_each_other_seldom(package: str) -> None:
    """The imports between rooms stay below the limit; `python -m tests.rooms` shows where they are."""
    assert 0 < rooms.imports(package).total() <= IMPORTS[package]


@pytest.mark.parametrize("package", rooms.PACKAGES)
def test_every_room_says_what_lives_there(package: str) -> None:
    """The `__init__.py` of each folder begins with a docstring."""
    silent = [
        str(path)
        for path in (rooms.ROOT / package).rglob("__init__.py")
        if not path.read_text().startswith('"""')
    ]
    assert not silent


def test_imports_are_counted_once_for_each_file_and_room(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Relative, nested and repeated imports, names from modules, and other packages are counted correctly."""
    files = {
        "stream_app/__init__.py": "",
        "stream_app/cli.py": "import stream_app.a.one, os",
        "stream_app/a/__init__.py": "",
        "stream_app/a/one.py": "from stream_app.b import two\nfrom stream_app.b.two import X\nfrom . import other",
        "stream_app/a/other.py": "def f():\n    from ..b.two import X\n    import model.c",
        "stream_app/b/__init__.py": "from stream_app.b.two import X",
        "stream_app/b/two.py": "X = 1",
    }
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    monkeypatch.setattr(rooms, "ROOT", tmp_path)
    assert rooms.imports("stream_app") == {
        ("stream_app.cli", "stream_app.a"): 1,
        ("stream_app.a", "stream_app.b"): 2,
    }
    assert rooms.rooms("stream_app") == (["a", "b"], ["cli"])
    assert rooms.folders("stream_app")["stream_app/a"] == rooms.Folder(3, 6)
