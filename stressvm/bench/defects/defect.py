"""What a planted defect is: a window of an interleaving, what opens it, and a small world in which that shows."""

from __future__ import annotations

import enum
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, Any, NamedTuple, TypeAlias

from stressvm.explore.execution import Subject
from stressvm.explore.scenario import scenario
from stressvm.kernel.kernel import Timers

if TYPE_CHECKING:
    from collections.abc import Callable

    from stressvm.kernel.kernel import Kernel

    #: Builds a world in a kernel.
    Build: TypeAlias = Callable[[Kernel], None]
    #: Makes that of what is planted in it, and of its settings, by name.
    World: TypeAlias = Callable[..., Build]


class Label(enum.Enum):
    """What opens the window."""

    #: A subclass that does one small step of the model wrongly.
    MUTANT = "mutant"
    #: The same of what stands in for the kernel's tree: the entry list with its lanes of gaps.
    ANALOGUE = "analogue"
    #: Nothing is planted: a version of the kernel, as it was shipped, shows it.
    SHIPPED = "shipped"
    #: A step is done otherwise, and nothing that anybody can see goes wrong.
    EQUIVALENT = "equivalent"


class Anew(NamedTuple):
    """A setting of a world that is made anew for each execution: what it is made by, and with what."""

    make: Callable[..., Any]
    args: tuple[Any, ...] = ()


#: Settings of a world: names and values; values are hashable, so that the same world is known again.
Given: TypeAlias = tuple[tuple[str, Any], ...]


@dataclass(frozen=True)
class Plant:
    """One way to open a window.

    Attributes:
        what: what is done wrongly, in a few words.
        world: the world in which that shows.
        planted: what is planted in it; nothing for what a version of the kernel does as it was shipped.
        kind: the kinds of finding by which it is known, with "|" between them; "" for an equivalent.
        says: a pattern of what is said of it.
        label: what it is.
        given: further settings of the world, with the defect and without.
        twin: settings that are in the place of what is planted, in the world without it.
        tolerate: kinds that are no findings in this world.
        timers: when timed sleeps time out in it.
        max_steps: after so many steps an execution is stopped.
        note: why it cannot be noticed, or what else there is to say.
    """

    what: str
    world: World
    planted: Given
    kind: str
    says: str = ""
    label: Label = Label.MUTANT
    given: Given = ()
    twin: Given = ()
    tolerate: tuple[str, ...] = ()
    timers: Timers = Timers.IDLE
    max_steps: int = 4_000
    note: str = ""

    def subject(self, name: str) -> Subject:
        """The world with the defect."""
        return self._subject(name, (*self.given, *self.planted))

    def twin_subject(self, name: str) -> Subject:
        """The same world without it."""
        return self._subject(name, (*self.given, *self.twin))

    def twin_key(self) -> tuple[Any, ...]:
        """Equal for twins that are one and the same."""
        return self.world, self.given, self.twin, self.tolerate, self.timers, self.max_steps

    def _subject(self, name: str, given: Given) -> Subject:
        world = self.world

        def build(k: Kernel) -> None:
            made = {key: value.make(*value.args) if isinstance(value, Anew) else value for key, value in given}
            world(**made)(k)

        build.__name__ = name
        declared = scenario(tolerate=self.tolerate, timers=self.timers, max_steps=self.max_steps)
        return Subject(declared(build), {})


@dataclass(frozen=True)
class Defect:
    """A window of an interleaving.

    Attributes:
        id: F and a number for FreeBSD, N and a number for NetBSD.
        window: where it is, and what keeps it shut.
        plants: ways to open it.
    """

    id: str
    window: str
    plants: tuple[Plant, ...]

    @property
    def system(self) -> str:
        """Whose kernel it is in."""
        return {"F": "FreeBSD", "N": "NetBSD"}[self.id[0]]

    def named(self) -> list[tuple[str, Plant]]:
        """The ways to open it by name: the defect's own if there is one only, else with a letter."""
        if len(self.plants) == 1:
            return [(self.id, self.plants[0])]
        return [(f"{self.id}{letter}", plant) for letter, plant in zip("abcdefgh", self.plants, strict=False)]


@cache
def direct(program: Callable[..., None]) -> World:
    """A world whose program builds it at once, given the kernel and the settings."""

    def world(**given: Any) -> Build:
        return lambda k: program(k, **given)

    return world
