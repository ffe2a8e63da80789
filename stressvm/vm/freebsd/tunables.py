"""The tunables of FreeBSD's VM that its maps look at, by the names of their sysctl(8) variables.

Source: sys/vm/vm_map.c (vm.cluster_anon, security.bsd.stack_guard_page, vm.old_mlock), sys/vm/vm_unix.c and
sys/kern/subr_param.c (kern.sgrowsiz).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from stressvm.kernel.kernel import Kernel


@dataclass(slots=True)
class Sysctl:
    """What can be set while the world is built.

    Attributes:
        sgrowsiz: kern.sgrowsiz: a stack begins with so many bytes, and grows by multiples of them.
        stack_guard_page: security.bsd.stack_guard_page: how many pages of a stack's gap it never grows into.
        cluster_anon: vm.cluster_anon: are anonymous mappings put where the last one ended? 0 never, 1 without a hint, 2
            always. The kernel starts with 1; here it is 0, so that a search is first fit unless it is told otherwise.
        aslr_choices: no variable of the kernel's: of how many addresses, evenly spaced, ASLR draws one. The kernel draws
            any of 4096, too many to tell apart.
        old_mlock: vm.old_mlock: RLIMIT_MEMLOCK does not count when a stack grows.
    """

    sgrowsiz: int = 128 * 1024
    stack_guard_page: int = 1
    cluster_anon: int = 0
    aslr_choices: int = 16
    old_mlock: bool = False


def sysctl(k: Kernel) -> Sysctl:
    """The tunables of a kernel; set them while the world is built."""
    return k.once("sysctl", Sysctl)
