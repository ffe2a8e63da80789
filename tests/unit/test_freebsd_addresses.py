"""Addresses and lengths that are no numbers of 64 bits are refused by every public call, which names what is wrong."""

from __future__ import annotations

import inspect
from typing import TYPE_CHECKING, Any

import pytest

from stressvm import UsageError
from stressvm.vm import freebsd
from stressvm.vm.pages import VmPages13
from tests.freebsd_lone import Lone, closing

if TYPE_CHECKING:
    from collections.abc import Iterator

PAGE = freebsd.PAGE_SIZE
#: What calls name their addresses, lengths and offsets.
NAMES = {
    *("addr", "start", "end", "vaddr", "va", "min_addr", "max_addr", "addrbos"),
    *("length", "size", "max_ssize", "offset", "alignment", "align"),
}
#: Arithmetic, and what is no address: sizes of objects.
OTHERS = {"pmap_align_superpage", "round_page", "trunc_page", "off_to_idx", "vm_object_shadow"}
CALLS = [
    (name, parameter)
    for name in freebsd.__all__
    if inspect.isfunction(getattr(freebsd, name)) and name not in OTHERS
    for parameter in inspect.signature(getattr(freebsd, name)).parameters
    if parameter in NAMES
]


@pytest.fixture(autouse=True)
def _closed() -> Iterator[None]:
    yield from closing()


class World(Lone):
    """The kernel's map with memory, an arena, and a process's map with a page."""

    def __init__(self) -> None:
        super().__init__()
        memory = freebsd.Memory(VmPages13(self.k, 8))
        self.kmem = freebsd.kmem_init(freebsd.kernel_map(self.k, 8, memory=memory), import_quantum=PAGE)
        self.map = freebsd.setup(self.k, 8, memory=memory)
        assert self.map.insert(None, 0, self.map.min_offset, self.map.min_offset + PAGE) == 0
        self.begin()

    def call(self, call: Any, **given: Any) -> None:
        """Call it."""
        result = call(**given)
        if inspect.iscoroutine(result):
            self.now(result)

    def arguments(self, call: Any) -> dict[str, Any]:
        """Arguments of which nothing is wrong."""
        low = self.map.min_offset
        given: dict[str, Any] = {
            "vm_map": self.map,
            "parent": self.kmem.map,
            "submap": self.map,
            "kmem": self.kmem,
            "vm": self.kmem.kernel_arena,
            "obj": None,
            **dict.fromkeys(("new_prot", "new_maxprot", "new_inheritance", "fault_type", "access", "flags"), 1),
            **dict.fromkeys(("addr", "start", "vaddr", "va", "addrbos"), low),
            **dict.fromkeys(("end", "length", "size", "max_ssize"), PAGE),
            "offset": 0,
        }
        parameters = inspect.signature(call).parameters.values()
        return {one.name: given[one.name] for one in parameters if one.default is one.empty}


def test_there_are_such_calls() -> None:
    assert {"vm_map_find", "vm_map_wire", "vmspace_access", "kmem_malloc", "vmem_alloc"} < {name for name, _ in CALLS}
    assert len(CALLS) > 50


@pytest.mark.parametrize(("name", "parameter"), CALLS)
def test_what_does_not_fit_into_64_bits_is_refused(name: str, parameter: str) -> None:
    world = World()
    call = getattr(freebsd, name)
    for value, shown in ((-PAGE, "-0x1000"), (1 << 64, "0x10000000000000000"), (1.5, "1.5"), (None, "None")):
        with pytest.raises(UsageError, match=rf"^{name}\({parameter}={shown}\): .* from 0 to 2\^64 - 1, in bytes"):
            world.call(call, **world.arguments(call) | {parameter: value})
    # Nothing was locked for it, or changed.
    world.now(world.map.lock.lock())
    assert [(entry.start, entry.end) for entry in world.map.entries] == [
        (world.map.min_offset, world.map.min_offset + PAGE)
    ]
