"""What the kernels' manual pages promise and their code does not do: each operation that shows it is run."""

from __future__ import annotations

import textwrap
from typing import TYPE_CHECKING, Any

import pytest

from tests.manual import FACES, Disagreement, calls, disagreements
from tests.support import every, kinds

if TYPE_CHECKING:
    from collections.abc import Callable

    from stressvm import Kernel

BROKEN = disagreements()


def _runner(one: Disagreement, version: str, results: set[str]) -> Callable[[Kernel], None]:
    face = FACES[one.call.partition(".")[0]]
    *body, last = one.shows.splitlines()
    source = "async def shows(k, version):\n" + textwrap.indent("\n".join([*body, f"return {last}"]), "    ")
    names: dict[str, Any] = {name: getattr(face, name) for name in face.__all__}
    exec(source, names)

    def build(k: Kernel) -> None:
        async def shows() -> None:
            results.add(repr(await names["shows"](k, version)))

        k.spawn(shows)

    return build


@pytest.mark.parametrize(
    ("one", "version"),
    [(one, version) for one in BROKEN for version in one.versions],
    ids=lambda value: value.call if isinstance(value, Disagreement) else value,
)
def test_the_code_breaks_the_promise_as_the_page_says(one: Disagreement, version: str) -> None:
    results: set[str] = set()
    assert kinds(every(_runner(one, version, results))) == {None}
    assert results == {one.gives}


def test_every_disagreement_is_about_a_modelled_call() -> None:
    known = {f"{face}.{name}" for face, module in FACES.items() for name in calls(module)}
    assert {one.call for one in BROKEN} <= known
