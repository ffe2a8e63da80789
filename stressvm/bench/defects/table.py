"""All planted defects: every window of the catalogue once."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from stressvm.bench.defects import (
    freebsd_entries,
    freebsd_kmem_back,
    freebsd_lock,
    freebsd_memory,
    freebsd_space,
    netbsd_map,
    netbsd_memory,
    netbsd_va,
    netbsd_va_calls,
    pmap,
)

if TYPE_CHECKING:
    from stressvm.bench.defects.defect import Defect

#: Each module of planted defects by its name.
FAMILIES: Final[dict[str, tuple[Defect, ...]]] = {
    "freebsd_lock": freebsd_lock.DEFECTS,
    "freebsd_space": freebsd_space.DEFECTS,
    "freebsd_entries": freebsd_entries.DEFECTS,
    "freebsd_memory": freebsd_memory.DEFECTS,
    "freebsd_kmem_back": freebsd_kmem_back.DEFECTS,
    "pmap": pmap.DEFECTS,
    "netbsd_va": netbsd_va.DEFECTS,
    "netbsd_va_calls": netbsd_va_calls.DEFECTS,
    "netbsd_map": netbsd_map.DEFECTS,
    "netbsd_memory": netbsd_memory.DEFECTS,
}

#: FreeBSD's first, then NetBSD's, in the order of their numbers.
DEFECTS: Final[tuple[Defect, ...]] = tuple(
    sorted((one for family in FAMILIES.values() for one in family), key=lambda one: (one.id[0], int(one.id[1:])))
)
