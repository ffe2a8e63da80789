"""A layer imports only from those below it, and scenarios import public names only."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

import stressvm

PACKAGE = Path(stressvm.__file__).resolve().parent
ROOT = PACKAGE.parent

#: What each layer may import of the project, besides itself. "" stands for the modules at the top of the package.
ALLOWED = {
    "kernel": set(),
    "vm": {"kernel"},
    "check": {"kernel"},
    "explore": {"kernel", "check"},
    "report": {"kernel", "check", "explore"},
    "campaign": {"kernel", "check", "explore", "report"},
    "bench": {"kernel", "check", "explore", "vm"},
    "conform": {"kernel", "check", "explore", "vm"},
    "study": {"kernel", "check", "explore", "report", "vm"},
    "stateful": {"kernel", "check", "explore", "report", "campaign"},
    "commands": {"kernel", "check", "explore", "report", "campaign", "bench", "conform", "vm", "study"},
}

#: Top modules: what each stands on. `__init__` holds the public names, `_version` nothing.
TOP = {"stressvm", "stressvm._version"}


def imports(path: Path) -> set[str]:
    """All project modules that a file imports, anywhere in it."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            assert node.module is not None
            found.add(node.module)
            found |= {f"{node.module}.{alias.name}" for alias in node.names if node.module == "stressvm"}
    return {name for name in found if name.split(".")[0] == "stressvm"}


def layer_of(module: str) -> str:
    parts = module.split(".")
    return parts[1] if len(parts) > 1 else ""


def files(layer: str) -> list[Path]:
    return sorted((PACKAGE / layer).rglob("*.py"))


def test_every_folder_is_a_known_layer() -> None:
    folders = {path.name for path in PACKAGE.iterdir() if path.is_dir() and any(path.glob("*.py"))}
    assert folders - {"scenarios"} == set(ALLOWED)


@pytest.mark.parametrize("layer", sorted(ALLOWED))
def test_a_layer_imports_only_from_below(layer: str) -> None:
    checked = 0
    for path in files(layer):
        for module in imports(path):
            checked += 1
            if module in TOP or module in {f"stressvm.{name}" for name in ("__version__",)}:
                continue
            target = layer_of(module)
            assert target == layer or target in ALLOWED[layer], f"{path.relative_to(PACKAGE)} imports {module}"
    assert checked, f"{layer} imports nothing of the project"


def test_only_loading_asks_where_the_package_is() -> None:
    """`import stressvm` itself, for its folder, is the one import upwards."""
    users = {path for layer in ALLOWED for path in files(layer) if "stressvm" in imports(path)}
    assert {path.name for path in users} <= {"loading.py"}


def test_hypothesis_is_needed_by_its_own_face_alone() -> None:
    """It is no dependency of stressvm: everything else works without."""
    users = {
        path.relative_to(PACKAGE).parts[0]
        for path in PACKAGE.rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if (isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "hypothesis")
        or (isinstance(node, ast.Import) and any(alias.name.split(".")[0] == "hypothesis" for alias in node.names))
    }
    assert users == {"stateful"}


def test_scenarios_import_public_names_only() -> None:
    public = {
        "stressvm",
        "stressvm.vm",
        "stressvm.vm.netbsd",
        "stressvm.vm.freebsd",
        "stressvm.vm.linear",
        "stressvm.vm.pages",
        "stressvm.vm.pmap",
        "stressvm.vm.workload",
    }
    folder = PACKAGE / "scenarios" if (PACKAGE / "scenarios").is_dir() else ROOT / "scenarios"
    paths = sorted(folder.rglob("*.py"))
    assert len(paths) >= 4
    for path in paths:
        for module in imports(path):
            names = {f"stressvm.{name}" for name in stressvm.__all__} | {"stressvm.vm"}
            assert module in public or module in names, f"{path.name} imports {module}"


def test_every_public_name_exists_once() -> None:
    for name in stressvm.__all__:
        assert hasattr(stressvm, name)
    assert len(set(stressvm.__all__)) == len(stressvm.__all__)
