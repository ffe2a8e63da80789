"""Finding scenarios: by path, by name, in the installed project and below the current folder."""

from __future__ import annotations

import hashlib
import sys
from functools import cache
from importlib.machinery import SourceFileLoader
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from typing import TYPE_CHECKING

import stressvm
from stressvm.explore.scenario import Scenario
from stressvm.kernel.errors import StressvmError, UsageError
from stressvm.kernel.thread import frames_of

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from types import CodeType, ModuleType


def shipped_folder() -> Path:
    """The scenarios that come with the project: inside the installed package, or beside it in a checkout."""
    package = Path(stressvm.__file__).resolve().parent
    inside = package / "scenarios"
    return inside if inside.is_dir() else package.parent / "scenarios"


def select(paths: Sequence[str]) -> list[Scenario]:
    """The scenarios that the words of a command line name, in a stable order, each once.

    Args:
        paths: files, folders, `FILE::NAME`, or names of scenarios; empty: the shipped ones and those in `scenarios/`
            below the current folder. A file found in both counts once, as the one below the current folder.

    Raises:
        UsageError: there is no such thing, or it cannot be loaded.
    """
    found: dict[tuple[str, str], Scenario] = {}
    for path in paths or [""]:
        for scenario in _named(path) if path else _default():
            found.setdefault((scenario.name, scenario.file), scenario)
    return list(found.values())


def by_name(name: str, extra: str | None = None) -> Scenario:
    """The scenario of that name, from the file `extra` if given, else from the default places.

    Raises:
        UsageError: there is none.
    """
    if extra is not None:
        among = list(_named(extra))
        where = extra
    else:
        among = list(_default())
        where = "the shipped scenarios and scenarios/ below the current folder"
    for scenario in among:
        if scenario.name == name:
            return scenario
    remedy = "" if extra else "; give its file with --scenario PATH"
    raise UsageError(f"no scenario {name!r} in {where}{remedy}")


def _default() -> Iterator[Scenario]:
    folders = [Path("scenarios")] if Path("scenarios").is_dir() else []
    folders.append(shipped_folder())
    seen: set[Path] = set()
    for folder in folders:
        for file in _python_files(folder):
            relative = file.relative_to(folder)
            if relative not in seen:
                seen.add(relative)
                yield from load(file)


def _named(path: str) -> Iterator[Scenario]:
    file, _, name = path.partition("::")
    target = Path(file)
    if target.is_dir():
        scenarios = [scenario for found in _python_files(target) for scenario in load(found)]
    elif target.suffix == ".py" or target.exists():
        scenarios = load(target)
        if not scenarios:
            raise UsageError(f"{file}: no scenario in it; decorate a function with @stressvm.scenario()")
    elif not name and "/" not in file:
        scenarios = [scenario for scenario in _default() if scenario.name == file]
        if not scenarios:
            raise UsageError(f"{file}: no such file or folder, and no scenario of that name (see stressvm list)")
    else:
        raise UsageError(f"{file}: no such file or folder")
    if name:
        scenarios = [scenario for scenario in scenarios if scenario.name == name]
        if not scenarios:
            raise UsageError(f"{file}: no scenario {name!r} in it")
    yield from scenarios


def _python_files(folder: Path) -> list[Path]:
    """All that could hold scenarios, in order of path; names with a leading underscore or dot are helpers."""
    return sorted(
        file
        for file in folder.rglob("*.py")
        if not any(part.startswith(("_", ".")) for part in file.relative_to(folder).parts)
    )


def load(file: Path) -> list[Scenario]:
    """The scenarios defined in a file, in order of definition.

    Raises:
        UsageError: it cannot be read, or raises when it is imported.
    """
    file = file.resolve()
    if not file.is_file():
        raise UsageError(f"{file}: no such file")
    return list(_scenarios(file))


class _FromSource(SourceFileLoader):
    """Compiles a scenario's file each time it is loaded.

    Python's cache of bytecode knows a source by its size and the second of its change: a scenario edited twice within
    a second would be run as it was before, against the digest of what it is now.
    """

    def get_code(self, fullname: str) -> CodeType:
        del fullname
        return self.source_to_code(self.get_data(self.path), self.path)


@cache
def _scenarios(file: Path) -> tuple[Scenario, ...]:
    module = imported(file)
    own = [value for value in vars(module).values() if isinstance(value, Scenario) and value.file == str(file)]
    return tuple(dict.fromkeys(own))


def imported(file: Path) -> ModuleType:
    """The module that a user's file makes, run now; the folders of the file and of its package can be imported from.

    Args:
        file: its resolved path.

    Raises:
        UsageError: it cannot be read, or raises when it is imported; names the file and the line.
    """
    name = f"stressvm_scenario_{hashlib.blake2b(str(file).encode(), digest_size=6).hexdigest()}_{file.stem}"
    spec = spec_from_file_location(name, file, loader=_FromSource(name, str(file)))
    if file.suffix != ".py" or spec is None or spec.loader is None:
        raise UsageError(f"{file}: not a Python file")
    module = module_from_spec(spec)
    sys.modules[name] = module
    for folder in (_above_packages(file), str(file.parent)):
        if folder not in sys.path:
            sys.path.insert(0, folder)
    try:
        spec.loader.exec_module(module)
    except (KeyboardInterrupt, MemoryError):
        raise
    except OSError as exc:
        raise UsageError(f"{file}: cannot be read: {exc.strerror or exc}") from None
    except SyntaxError as exc:
        raise UsageError(f"{file}: line {exc.lineno}: {exc.msg}") from None
    except BaseException as exc:  # noqa: BLE001 - a scenario's file may raise anything, SystemExit too
        if isinstance(exc, StressvmError):
            raise UsageError(f"{file}: {exc}") from None
        lines = [frame for frame in frames_of(exc.__traceback__) if frame.file == str(file)]
        where = f" at line {lines[-1].line}" if lines else ""
        raise UsageError(f"{file}: raises when imported{where}: {type(exc).__name__}: {exc}") from None
    return module


def _above_packages(file: Path) -> str:
    """The folder from which the package that a file is in can be imported, as test runners have it."""
    folder = file.parent
    while (folder / "__init__.py").is_file() and folder.parent != folder:
        folder = folder.parent
    return str(folder)


@cache
def _digest(file: str) -> str:
    return hashlib.blake2b(Path(file).read_bytes(), digest_size=8).hexdigest()


def digest_of(scenario: Scenario) -> str:
    """Digest of the scenario's file: tells whether it has changed since a schedule was recorded."""
    try:
        return _digest(scenario.file)
    except OSError:
        return ""
