"""What a caller of NetBSD's may be made to wait for when there are no addresses: NOWAIT, WAITVA, TRYLOCK, and the way back."""

from __future__ import annotations

from typing import Any, Final

from stressvm.bench.defects.defect import Defect, Plant
from stressvm.bench.defects.netbsd_va_worlds import drained, holding, impatient, users
from stressvm.vm import netbsd


class SearchesUnlocked(netbsd.VmMap):
    """After a wait it searches again at once, and locks the map when it has found something."""

    async def prepare(self, hint: int, size: int, align: int, flags: int) -> tuple[int, int]:
        found = await self.first_round(hint, size, align, flags)
        while found is None:
            va = self.findspace(hint, size, align, flags)
            if va is None:
                found = await self.first_round(hint, size, align, flags)
            else:
                await self.lock.lock()
                found = 0, va
        return found

    async def first_round(self, hint: int, size: int, align: int, flags: int) -> tuple[int, int] | None:
        """What a call does up to its first wait; None if it has waited."""
        if not await self.lock_for_prepare(flags):
            return netbsd.EAGAIN, 0
        va = self.findspace(hint, size, align, flags)
        if va is not None:
            return 0, va
        timestamp = await self.no_room()
        return None if await self.wait_for_va(timestamp, hint, size, align, flags) else (netbsd.ENOMEM, 0)


class GivesUpAtOnce(netbsd.VmMap):
    """Who does not wait fails at once, without asking whether anything has changed."""

    async def wait_for_va(self, timestamp: int, hint: int, size: int, align: int, flags: int) -> bool:
        if not flags & netbsd.UVM_FLAG_WAITVA:
            return False
        return await super().wait_for_va(timestamp, hint, size, align, flags)


class AsksForNowait(netbsd.VmMap):
    """Who does not say NOWAIT waits, whether or not it says WAITVA."""

    async def wait_for_va(self, timestamp: int, hint: int, size: int, align: int, flags: int) -> bool:
        if not flags & netbsd.UVM_FLAG_NOWAIT:
            flags |= netbsd.UVM_FLAG_WAITVA
        return await super().wait_for_va(timestamp, hint, size, align, flags)


class TriesOnce(netbsd.VmMap):
    """TRYLOCK holds for the first round only."""

    async def prepare(self, hint: int, size: int, align: int, flags: int) -> tuple[int, int]:
        self.k.once("rounds", dict[int, int])[self.k.cur] = 0
        return await super().prepare(hint, size, align, flags)

    async def lock_for_prepare(self, flags: int) -> bool:
        rounds = self.k.once("rounds", dict[int, int])
        rounds[self.k.cur] += 1
        return await super().lock_for_prepare(flags & ~netbsd.UVM_FLAG_TRYLOCK if rounds[self.k.cur] > 1 else flags)


def _cls(cls: type[netbsd.VmMap]) -> tuple[tuple[str, Any], ...]:
    return (("cls", cls),)


DEFECTS: Final = (
    Defect(
        "N11",
        "Who has waited locks the map again before it searches.",
        (
            Plant(
                "it searches first",
                users,
                _cls(SearchesUnlocked),
                "invariant|assertion",
                "G16 placed|is in use",
            ),
        ),
    ),
    Defect(
        "N12",
        "Who does not wait fails only if nobody has locked the map since it has looked.",
        (
            Plant(
                "it fails at once",
                drained,
                _cls(GivesUpAtOnce),
                "assertion",
                "although a page was freed for it",
                note="What others free at the same time proves nothing, since the call may have been before that; what was freed "
                "on its own behalf does.",
            ),
        ),
    ),
    Defect(
        "N13",
        "Only who says WAITVA waits.",
        (
            Plant(
                "who does not say NOWAIT waits",
                impatient,
                _cls(AsksForNowait),
                "exhausted|stranded|livelock|too-long",
                "addresses|no progress|steps",
                max_steps=400,
            ),
        ),
    ),
    Defect(
        "N14",
        "With TRYLOCK no round waits for the map's lock.",
        (Plant("the first does not", holding, _cls(TriesOnce), "deadlock", "softc"),),
    ),
)
