"""The real systems' combinations, by name: which map, which protocol of waiting, which locks.

    PRESETS["netbsd-6"].space(k, pages=256, cpus=4)

Their locks are adaptive (a thread spins while the holder runs, else it sleeps), and a free lock goes to whoever comes first:
neither system hands over. What differs is how a thread waits for addresses, and who is woken.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from stressvm.kernel.errors import UsageError
from stressvm.study.experiment import server
from stressvm.study.spaces import FreeBSDPool, FreeBSDSpace, NetBSDSpace, Space

if TYPE_CHECKING:
    from collections.abc import Callable

    from stressvm.kernel.kernel import Kernel
    from stressvm.study.machine import Machine

#: ARG_MAX of both systems, 256 KiB, in pages: what one execve takes.
ARG_PAGES: Final = 64


@dataclass(frozen=True, slots=True)
class Preset:
    """One system's way.

    Attributes:
        name: by which it is asked for.
        text: what is waited for, who is woken, and from which source that is taken.
        make: builds the address space, from a kernel, pages, and CPUs.
    """

    name: str
    text: str
    make: Callable[[Kernel, int, int], Space]

    def space(self, k: Kernel, *, pages: int, cpus: int) -> Space:
        """While the world is built: the address space."""
        return self.make(k, pages, cpus)

    def machine(self, ncpu: int) -> Machine:
        """A machine with the system's locks."""
        return server(ncpu)


PRESETS: Final[dict[str, Preset]] = {
    preset.name: preset
    for preset in (
        Preset(
            "netbsd-5.2",
            "uvm_km_alloc with WAITVA on a pageable submap: sleeps a second at a time while WANTVA is set and the timestamp "
            "has not moved; an unmap that finds WANTVA clears it and wakes all (NetBSD 5.2, sys/uvm/uvm_map.c)",
            lambda k, pages, cpus: NetBSDSpace(k, pages, version="5.2"),  # noqa: ARG005
        ),
        Preset(
            "netbsd-5.2-intrsafe",
            "the same on an INTRSAFE map: one spin mutex, and a timestamp that never moves, so that a wakeup can be lost "
            "(NetBSD 5.2, sys/uvm/uvm_map.c)",
            lambda k, pages, cpus: NetBSDSpace(k, pages, version="5.2", intrsafe=True),  # noqa: ARG005
        ),
        Preset(
            "netbsd-6",
            "as 5.2 on a pageable submap, without reclaim callbacks, and neighbours merge (NetBSD 6, sys/uvm/uvm_map.c)",
            lambda k, pages, cpus: NetBSDSpace(k, pages, version="6"),  # noqa: ARG005
        ),
        Preset(
            "freebsd-exec-map",
            "kmap_alloc_wait: sleeps without a limit; kmap_free_wakeup wakes all if anybody wants addresses "
            "(FreeBSD 10.4, sys/vm/vm_kern.c)",
            lambda k, pages, cpus: FreeBSDSpace(k, pages, version="2013"),  # noqa: ARG005
        ),
        Preset(
            "freebsd-exec-pool",
            "exec_alloc_args_kva: ranges of exec_map set up at boot, one slot for each CPU and a list for the rest; a range "
            "put on the list wakes one, a range put into a slot nobody (FreeBSD 13.0, sys/kern/kern_exec.c)",
            lambda k, pages, cpus: FreeBSDPool(k, pages, cpus=cpus, each=ARG_PAGES),
        ),
    )
}


def preset(name: str) -> Preset:
    """The preset of that name.

    Raises:
        UsageError: there is none.
    """
    try:
        return PRESETS[name]
    except KeyError:
        raise UsageError(f"no preset {name!r}; there are {', '.join(PRESETS)}") from None
