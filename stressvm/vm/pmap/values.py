"""What pmaps answer with: faults, translations, counts."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple


@dataclass(frozen=True, slots=True)
class PageFault:
    """What an access ended with that the pmap did not allow.

    Attributes:
        va: the address.
        access: VM_PROT_*.
        present: there was a translation, with fewer rights.
        spurious: the tables allow it; only the TLB did not. Trying again will do.
    """

    va: int
    access: int
    present: bool
    spurious: bool = False


class Translation(NamedTuple):
    """One translation as the tables have it.

    Attributes:
        va: where it begins.
        size: 4 KiB or 2 MiB, in bytes.
        pa: to where.
        prot: VM_PROT_* that it gives.
        wired, accessed, modified: its bits.
        raw: entered by pmap_kenter and its kin.
    """

    va: int
    size: int
    pa: int
    prot: int
    wired: bool
    accessed: bool
    modified: bool
    raw: bool


@dataclass(frozen=True, slots=True)
class PmapStatistics:
    """A snapshot of a pmap.

    Attributes:
        resident_count, wired_count: pages, a superpage counting 512.
        superpages: of them, mapped as such.
        tables: pages of page tables below the top.
        kernel_vm_end: up to where the kernel's page tables reach; 0 for a user pmap.
        hits, walks, faults, spurious_faults: accesses that the TLB answered, that walked, and that failed.
        stale_uses: hits on a translation that was on its way out, which is legal until somebody says that it is gone.
        invalidations: processors told to forget something, one count for each processor and time.
        promotions, promotion_failures, demotions, demotion_failures: of superpages; a failed demotion unmaps.
    """

    resident_count: int
    wired_count: int
    superpages: int
    tables: int
    kernel_vm_end: int
    hits: int
    walks: int
    faults: int
    spurious_faults: int
    stale_uses: int
    invalidations: int
    promotions: int
    promotion_failures: int
    demotions: int
    demotion_failures: int
