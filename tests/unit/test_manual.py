"""docs/man/ is what the docstrings say, for every modelled call."""

from __future__ import annotations

import pytest

from tests.manual import FACES, FOLDER, calls, pages


def test_the_pages_are_those_made_from_the_docstrings() -> None:
    """After a change: `python -m tests.manual`."""
    made = pages()
    assert {path.name for path in FOLDER.glob("*.md")} == set(made)
    for file, text in made.items():
        assert (FOLDER / file).read_text() == text, f"{file} is not what the docstrings say: python -m tests.manual"


@pytest.mark.parametrize("face", FACES)
def test_every_page_says_what_a_caller_must_know(face: str) -> None:
    for name, call in calls(FACES[face]).items():
        doc = " ".join((call.__doc__ or "").split())
        assert "Locks: " in doc, f"{name} does not say which locks are held on entry and exit"
        assert "Sleeps: " in doc, f"{name} does not say whether it sleeps"
        returns = str(call.__annotations__.get("return"))
        assert returns == "None" or "Returns:" in doc, f"{name} does not say what it returns"


KERNELS = ("vm_map_", "uvm_", "kmap_", "kmem_", "kva_", "vmspace_")


@pytest.mark.parametrize("face", FACES)
def test_every_call_with_a_kernel_s_name_says_what_it_models(face: str) -> None:
    """But for what builds worlds, which is no call of a kernel's."""
    module = FACES[face]
    named = {name: getattr(module, name) for name in module.__all__ if name.startswith(KERNELS)}
    modelled = {
        name
        for name, call in named.items()
        if callable(call) and not (call.__doc__ or "").startswith("While the world is built")
    }
    assert modelled <= set(calls(module))
