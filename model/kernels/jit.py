"""How the kernels of both packages are compiled, and when compiled code on disk is still valid.

numba stores compiled code beside the source file (or in `NUMBA_CACHE_DIR`) and compiles again when that one file has
changed. But the compiled code of a kernel also contains the kernels that it calls and the constants that it uses,
most of them from other files. So here the name of a file of compiled code contains a hash of the source file and of
all files of this project that it imports, directly or not. Files with other hashes are deleted when a new one is
written, so the folder does not grow.
"""

import hashlib
import re
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import numba
from numba.core import caching

_IMPORT = re.compile(
    rb"^[ \t]*(?:from[ \t]+([\w.]+)[ \t]+import[ \t]+(\([^)]*\)|[^\n]*)|import[ \t]+([^\n]*))", re.MULTILINE
)
_NAME = re.compile(r"[\w.]+")


def cached_jit(**options: Any) -> Callable[..., Any]:
    """Return a decorator that compiles a function on its first call and keeps the compiled code on disk.

    Compiled code runs without the GIL, and a division by zero gives infinity or NaN instead of an exception: the
    check is a branch in the loop, which would forbid SIMD. `options` are further options of `numba.njit`; the
    decorator takes some as well: `@jit`, or `@jit(inline="always")`.
    """
    options = {"nogil": True, "error_model": "numpy"} | options

    def jit(function: Callable[..., Any] | None = None, **more: Any) -> Any:
        def compiled(function: Callable[..., Any]) -> Any:
            dispatcher = numba.njit(**options, **more)(function)
            if hasattr(dispatcher, "py_func"):  # not with NUMBA_DISABLE_JIT
                dispatcher._cache = _Cache(function)
            return dispatcher

        return compiled if function is None else compiled(function)

    return jit


#: The decorator for kernels of the model. Sums may be computed in any order, which SIMD needs.
jit = cached_jit(fastmath=True)


class _Files(caching.CompileResultCacheImpl):
    """Names the files of one function by the hash of its sources, in place of numba's line number."""

    def get_filename_base(self, fullname: str, abiflags: str) -> str:
        name, _, rest = super().get_filename_base(fullname, abiflags).rpartition("-")
        self.function, self.python = name, rest.partition(".")[2]
        return f"{name}-{sources_hash(Path(self.locator._py_file))}.{self.python}"


class _Cache(caching.FunctionCache):
    _impl_class = _Files

    def save_overload(self, sig: Any, data: Any) -> None:
        super().save_overload(sig, data)
        files = self._impl
        for found in Path(self.cache_path).glob(f"{files.function}-*.{files.python}.*"):
            if not found.name.startswith(f"{files.filename_base}."):
                found.unlink(missing_ok=True)


@cache
def sources_hash(file: Path) -> str:
    """Return a hash of a source file and of all files of the project that it imports, directly or not."""
    root = file.parent
    while (root / "__init__.py").exists():
        root = root.parent
    found, left = {file}, [file]
    while left:
        for each in _imported(left.pop(), root) - found:
            found.add(each)
            left.append(each)
    digest = hashlib.sha256()
    for each in sorted(found):
        digest.update(str(each.relative_to(root)).encode() + b"\0" + _read(each)[0])
    return digest.hexdigest()[:16]


@cache
def _read(file: Path) -> tuple[bytes, list[tuple[bytes, bytes, bytes]]]:
    """The hash of a file, and its import statements: package and names, or a list of modules."""
    content = file.read_bytes()
    return hashlib.sha256(content).digest(), _IMPORT.findall(content)


@cache
def _imported(file: Path, root: Path) -> frozenset[Path]:
    """The files below `root` that a source file imports. In `from package import name`, the name may be a module."""
    found: list[Path] = []
    for package, names, whole in _read(file)[1]:
        if package:
            parent = _file_of(package.decode(), root)
            found += [parent] if parent else []
            if parent and parent.name == "__init__.py":
                modules = (f"{package.decode()}.{name}" for name in _NAME.findall(names.decode()))
                found += filter(None, (_file_of(module, root) for module in modules))
        else:
            found += filter(None, (_file_of(module, root) for module in _NAME.findall(whole.decode())))
    return frozenset(found)


@cache
def _file_of(module: str, root: Path) -> Path | None:
    """The file of a module below `root`; None for a module of another project."""
    top, *_ = names = module.split(".")
    if not (root / top / "__init__.py").is_file():
        return None
    place = root.joinpath(*names)
    return next((each for each in (place.with_suffix(".py"), place / "__init__.py") if each.is_file()), None)
