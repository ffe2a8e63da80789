"""What a kernel is built with: with INVARIANTS its assertions panic, without it goes on with what it has."""

from __future__ import annotations

from typing import TYPE_CHECKING

from stressvm.vm import freebsd
from tests.support import every

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from stressvm import Kernel

PAGE = freebsd.PAGE_SIZE
INVARIANTS, NONE = freebsd.Options.INVARIANTS, freebsd.Options.NONE


def _ends(
    call: Callable[[freebsd.VmMap], Awaitable[object]], options: freebsd.Options
) -> tuple[str | None, list[object]]:
    """How a thread ends that makes one call, and what the call returns."""
    results: list[object] = []

    def build(k: Kernel) -> None:
        vm_map = freebsd.setup(k, 8, options=options)

        async def calls() -> None:
            results.append(await call(vm_map))

        k.spawn(calls)

    (ending,) = every(build)
    return ending.kind, results


async def _beyond(vm_map: freebsd.VmMap) -> int:
    low = vm_map.min_offset
    return await freebsd.vm_map_fixed(vm_map, None, 0, low, PAGE, freebsd.VM_PROT_RW, freebsd.VM_PROT_READ, 0)


async def _nothing_aligned(vm_map: freebsd.VmMap) -> tuple[int, int]:
    low = vm_map.min_offset
    await freebsd.vm_map_fixed(vm_map, None, 0, low, PAGE)
    await freebsd.vm_map_fixed(vm_map, freebsd.VmObject(1), 0, low + PAGE, PAGE)
    return await freebsd.vm_map_find(vm_map, None, 0, low + 1, 0, 0, freebsd.VMFS_ALIGNED_SPACE(12))


def test_rights_beyond_the_most_allowed() -> None:
    assert _ends(_beyond, INVARIANTS) == ("panic", [])
    kind, _ = _ends(_beyond, NONE)
    assert kind == "invariant", "the kernel goes on, and G6 says what it has now"


def test_finding_room_for_nothing_at_an_aligned_address() -> None:
    assert _ends(_nothing_aligned, INVARIANTS) == ("panic", [])
    kind, results = _ends(_nothing_aligned, NONE)
    assert (kind, results) == (None, [(freebsd.KERN_INVALID_ADDRESS, 0)])
