"""FreeBSD's vm_map_wire and vm_map_unwire: the in-transition protocol.

To wire an entry its pages are faulted in, and that is done without the map lock. Meanwhile the entry is *in transition*
and has an owner: others may clip it, but neither merge nor delete it, nor wire it themselves; they set NEEDS_WAKEUP in
it and sleep on the map. The map is *busy* meanwhile, so that fork and protect keep out. The owner finds its entry, or
the pieces of it, by address if anybody else has locked the map for writing since.

A first pass marks the entries one by one and wires them; it may have to wait for those that others have in transition.
A second pass clears the marks of the entries that are this thread's, whatever came of it, undoes the wiring after a
failure, and merges.

Source: sys/vm/vm_map.c, vm_map_wire (13: vm_map_wire_locked), vm_map_unwire, vm_map_wire_entry_failure.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from stressvm.vm.freebsd import flags as F  # noqa: N812 - the constants, as the kernel writes them
from stressvm.vm.freebsd.vm_map_lookup import Lookup
from stressvm.vm.freebsd.vm_user_wire import user_wire_count

if TYPE_CHECKING:
    from collections.abc import Callable

    from stressvm.vm.freebsd.vm_map_entry import VmMapEntry

_OURS: Final = F.MAP_ENTRY_IN_TRANSITION | F.MAP_ENTRY_WIRE_SKIPPED


class Pass:
    """Where a call that wires or unwires stands.

    Attributes:
        start, end: the range; the end comes down to where the call gives up.
        holes_ok: may there be holes in it?
        first: the first entry of the range, None if it has to be looked up again.
        result: KERN_*.
        gave_up: the first pass has ended early.
    """

    __slots__ = ("end", "first", "gave_up", "holes_ok", "result", "start")

    def __init__(self, start: int, end: int, *, holes_ok: bool) -> None:
        self.start = start
        self.end = end
        self.holes_ok = holes_ok
        self.first: VmMapEntry | None = None
        self.result = F.KERN_SUCCESS
        self.gave_up = False

    def stop(self, result: int, end: int) -> None:
        """Give up: nothing at or above `end` was touched."""
        self.result = result
        self.end = end
        self.gave_up = True

    def stopped(self) -> bool:
        """Has the first pass ended early?"""
        return self.gave_up


class Wiring(Lookup):
    """A map whose entries can be wired."""

    # ------------------------------------------------------------ vm_map_wire

    async def wire(self, start: int, end: int, flags: int) -> int:
        """vm_map_wire. Locks: none on entry and exit. Sleeps: for the lock, entries in transition, and faults."""
        await self.lock.lock()
        result, wanted = await self.wire_locked(start, end, flags)
        await self.unlock_after_wire(wanted=wanted)
        return result

    async def unlock_after_wire(self, *, wanted: bool) -> None:
        """Let go of the lock, and wake those who have waited for an entry."""
        raise NotImplementedError

    async def wire_locked(self, start: int, end: int, flags: int) -> tuple[int, bool]:
        """The wiring itself.

        Locks: the write lock on entry and exit, released while asleep and during faults.

        Returns:
            KERN_*, and whether somebody waits for one of the entries and has to be woken.
        """
        if start == end:
            return F.KERN_SUCCESS, False
        start, end = self.range_check(start, end)
        progress = Pass(start, end, holes_ok=bool(flags & F.VM_MAP_WIRE_HOLESOK))
        entry = self.first_of(progress)
        if progress.stopped():
            return progress.result, False
        while entry is not None and entry.start < progress.end:
            if entry.eflags & F.MAP_ENTRY_IN_TRANSITION:
                known = entry is progress.first
                entry = await self.wait_in_transition(progress, entry)
                if progress.stopped():
                    if known:
                        return progress.result, False
                    break
                continue
            entry = await self.wire_entry(progress, entry, flags)
            if progress.stopped():
                break
            self.stop_at_hole(progress, entry)
            if progress.stopped():
                break
            entry = self.entries.next_of(entry)
        return progress.result, await self.wired(progress, flags)

    def first_of(self, progress: Pass) -> VmMapEntry | None:
        """The first entry of the range; without one at its start, and no holes allowed, nothing is done."""
        found, entry = self.lookup(progress.start)
        if not found:
            if not progress.holes_ok:
                progress.stop(F.KERN_INVALID_ADDRESS, progress.start)
                return None
            entry = self.after(entry)
        progress.first = entry
        return entry

    async def wait_in_transition(self, progress: Pass, entry: VmMapEntry) -> VmMapEntry | None:
        """vm_map_entry_in_transition: sleep until another thread is done with an entry; where to go on.

        Locks: the write lock on entry and exit, released meanwhile.
        """
        start = max(progress.start, entry.start)
        known = entry is progress.first
        going_on: VmMapEntry | None = entry
        if not await self.wait_for_entry(entry, lambda: not entry.eflags & F.MAP_ENTRY_IN_TRANSITION):
            found, going_on = self.lookup(start)
            if not found:
                if not progress.holes_ok:
                    progress.stop(F.KERN_INVALID_ADDRESS, start)
                    return None
                going_on = self.after(going_on)
        progress.first = going_on if known else None
        return going_on

    async def wire_entry(self, progress: Pass, entry: VmMapEntry, flags: int) -> VmMapEntry:
        """Take one entry, and wire it; the last piece of it, if others have clipped it meanwhile.

        Locks: the write lock on entry and exit, released during faults.
        """
        if not self.take(progress, entry):
            return entry
        prot = F.VM_PROT_WRITE if flags & F.VM_MAP_WIRE_WRITE else 0
        if not entry.protection & (F.VM_PROT_READ | F.VM_PROT_EXECUTE) or prot & ~entry.protection:
            self.entries_field.write()
            entry.eflags |= F.MAP_ENTRY_WIRE_SKIPPED
            if not progress.holes_ok:
                progress.stop(F.KERN_INVALID_ADDRESS, entry.end)
        elif not entry.wired_count:
            return await self.fault_in(progress, entry, user=bool(flags & F.VM_MAP_WIRE_USER))
        elif not flags & F.VM_MAP_WIRE_USER or not entry.eflags & F.MAP_ENTRY_USER_WIRED:
            self.entries_field.write()
            entry.wired_count += 1
        return entry

    def take(self, progress: Pass, entry: VmMapEntry) -> bool:
        """Cut the entry to the range and put it in transition: it is this thread's now. If it cannot be cut, give up."""
        error = self.clip_start(entry, progress.start) or self.clip_end(entry, progress.end)
        if error:
            progress.stop(error, entry.start)
            return False
        if entry.eflags & F.MAP_ENTRY_IN_TRANSITION or entry.wiring_thread >= 0:
            self.kassert_failed(f"vm_map_wire: KASSERT: owned map entry {entry!r}")
        self.entries_field.write()
        entry.eflags |= F.MAP_ENTRY_IN_TRANSITION
        entry.wiring_thread = self.k.cur
        return True

    async def fault_in(self, progress: Pass, entry: VmMapEntry, *, user: bool) -> VmMapEntry:
        """Wire an entry for the first time: count it, let go of the lock, and fault in its pages.

        Locks: the write lock on entry and exit, released meanwhile with the map busy.
        """
        self.entries_field.write()
        entry.wired_count += 1
        start, end = entry.start, entry.end
        if user and not self.count_user(end - start):
            self.wire_failed(entry, start)
            progress.stop(F.KERN_RESOURCE_SHORTAGE, end)
            return entry
        timestamp = self.lock.timestamp.peek()
        await self.lock.busy()
        await self.lock.unlock()
        result, failed = await self.fault_pages(start, end, self.page_size(entry))
        await self.lock.lock()
        await self.lock.unbusy()
        if self.relocked(timestamp):
            entry = self.last_piece(progress, entry, start, end, result, failed)
        if result:
            await self.unwire_failed(failed)
            self.wire_failed(entry, failed)
            if user:
                self.discount_user(end - start)
            progress.stop(result, entry.end)
        return entry

    def page_size(self, entry: VmMapEntry) -> int:
        """How large the pages of a mapping are."""
        return F.PAGESIZES[(entry.eflags & F.MAP_ENTRY_SPLIT_BOUNDARY_MASK) >> F.MAP_ENTRY_SPLIT_BOUNDARY_SHIFT]

    async def fault_pages(self, start: int, end: int, step: int) -> tuple[int, int]:
        """Fault in each page: KERN_*, and the address at which it failed (or the end). Locks: none."""
        addr = start
        while addr < end:
            if error := await self.fault.fault(self, addr, F.VM_PROT_NONE, wire=True):
                return error, addr
            addr += step
        return F.KERN_SUCCESS, addr

    def last_piece(
        self, progress: Pass, entry: VmMapEntry, start: int, end: int, result: int, failed: int
    ) -> VmMapEntry:
        """The map was locked for writing meanwhile: find the entry's pieces, of which the last one is returned.

        They cannot have been merged or deleted, only clipped. After a failure those that were not wired whole are
        marked here.
        """
        found, piece = self.lookup(start)
        if not found or piece is None:
            raise self.k.panic(f"vm_map_wire: KASSERT: lookup failed at {start:#x}")
        progress.first = piece if entry is progress.first else None
        while piece.end < end:
            self.must_be_ours(piece, start, end)
            if result and failed < piece.end:
                self.wire_failed(piece, failed)
            after = self.entries.next_of(piece)
            if after is None or after.start != piece.end:
                raise self.k.panic(
                    f"G18 transition: {piece!r} was in transition, and what followed it is gone", "invariant"
                )
            piece = after
        self.must_be_ours(piece, start, end)
        return piece

    def must_be_ours(self, piece: VmMapEntry, start: int, end: int) -> None:
        """G18: the pieces of an entry in transition are in transition, this thread's, and make up the entry."""
        mine = piece.eflags & F.MAP_ENTRY_IN_TRANSITION and piece.wiring_thread == self.k.cur
        if not mine or piece.start < start or piece.end > end:
            raise self.k.panic(f"G18 transition: {piece!r} is not a piece of {start:#x}-{end:#x}", "invariant")

    def wire_failed(self, entry: VmMapEntry, failed: int) -> None:
        """vm_map_wire_entry_failure: mark an entry whose wiring ended at `failed`."""
        if not entry.eflags & F.MAP_ENTRY_IN_TRANSITION or entry.wired_count != 1 or failed >= entry.end:
            raise self.k.panic(f"vm_map_wire_entry_failure: KASSERT: {entry!r} at {failed:#x}")
        self.entries_field.write()
        entry.wired_count = -1

    def stop_at_hole(self, progress: Pass, entry: VmMapEntry) -> None:
        """Unless holes are allowed, the range ends where there is one."""
        if progress.holes_ok or entry.end >= progress.end:
            return
        after = self.entries.next_of(entry)
        if after is None or after.start > entry.end:
            progress.stop(F.KERN_INVALID_ADDRESS, entry.end)

    async def wired(self, progress: Pass, flags: int) -> bool:
        """The second pass of vm_map_wire; does anybody wait?"""
        user = bool(flags & F.VM_MAP_WIRE_USER)

        def settle(entry: VmMapEntry) -> bool:
            if entry.eflags & F.MAP_ENTRY_WIRE_SKIPPED:
                return False
            if not progress.result:
                if user:
                    entry.eflags |= F.MAP_ENTRY_USER_WIRED
            elif entry.wired_count == -1:
                entry.wired_count = 0
            elif not user or not entry.eflags & F.MAP_ENTRY_USER_WIRED:
                if entry.wired_count == 1:
                    self.unwire_entry(entry)
                    if user:
                        self.discount_user(entry.size)
                    return True
                entry.wired_count -= 1
            return False

        return await self.second_pass(progress, settle)

    def count_user(self, size: int) -> bool:
        """Count what a user wires; False, and nothing changed, if that is too much."""
        return user_wire_count(self.k).add(size)

    # ------------------------------------------------------------ vm_map_unwire

    async def unwire(self, start: int, end: int, flags: int) -> int:
        """vm_map_unwire. Locks: none on entry and exit. Sleeps: for the lock, and entries in transition."""
        if start == end:
            return F.KERN_SUCCESS
        await self.lock.lock()
        start, end = self.range_check(start, end)
        progress = Pass(start, end, holes_ok=bool(flags & F.VM_MAP_WIRE_HOLESOK))
        user = bool(flags & F.VM_MAP_WIRE_USER)
        entry = self.first_of(progress)
        if progress.stopped():
            await self.lock.unlock()
            return progress.result
        while entry is not None and entry.start < progress.end:
            if entry.eflags & F.MAP_ENTRY_IN_TRANSITION:
                known = entry is progress.first
                entry = await self.wait_in_transition(progress, entry)
                if progress.stopped():
                    if known:
                        await self.lock.unlock()
                        return progress.result
                    break
                continue
            if not self.take(progress, entry):
                break
            self.stop_at_hole(progress, entry)
            if not progress.stopped() and not user and not entry.system_wired_count:
                progress.stop(F.KERN_INVALID_ARGUMENT, entry.end)
            if progress.stopped():
                break
            entry = self.entries.next_of(entry)
        wanted = await self.unwired(progress, user=user)
        await self.lock.unlock()
        if wanted:
            await self.wake_sleepers()
        return progress.result

    async def unwired(self, progress: Pass, *, user: bool) -> bool:
        """The second pass of vm_map_unwire; does anybody wait?"""

        def settle(entry: VmMapEntry) -> bool:
            if progress.result or (user and not entry.eflags & F.MAP_ENTRY_USER_WIRED):
                return False
            last = entry.wired_count == 1
            if last:
                self.unwire_entry(entry)
            else:
                entry.wired_count -= 1
            if user:
                entry.eflags &= ~F.MAP_ENTRY_USER_WIRED
            return last

        return await self.second_pass(progress, settle)

    # ------------------------------------------------------------ what both end with

    async def second_pass(self, progress: Pass, settle: Callable[[VmMapEntry], bool]) -> bool:
        """Settle the entries of the range that this thread has in transition, and merge them; does anybody wait?

        `settle` says whether the last wiring of an entry is gone. Locks: the write lock throughout. With holes allowed, somebody may have mapped one meanwhile, and may be wiring that: it is left alone.
        """
        entry = progress.first
        if entry is None:
            found, entry = self.lookup(progress.start)
            if not found:
                if not progress.holes_ok:
                    raise self.k.panic(f"vm_map_wire: KASSERT: lookup failed at {progress.start:#x}")
                entry = self.after(entry)
        prev = self.entries.prev_of(entry) if entry is not None else self.entries.last
        wanted = False
        while entry is not None and entry.start < progress.end:
            if entry.eflags & F.MAP_ENTRY_IN_TRANSITION and self.is_ours(entry):
                self.entries_field.write()
                if settle(entry):
                    await self.unwire_pages(entry, entry.start, entry.end)
                wanted |= self.release(entry)
                self.merge_changed(prev, entry)
            elif not progress.holes_ok:
                self.kassert_failed(f"vm_map_wire: KASSERT: no holes allowed, and {entry!r} is new or changed")
            prev = entry
            entry = self.entries.next_of(entry)
        self.merge_rest(prev, entry)
        self.nothing_forgotten()
        return wanted

    def nothing_forgotten(self) -> None:
        """G7: a thread that is done with wiring has nothing in transition any more."""
        for entry in self.entries:
            if entry.eflags & F.MAP_ENTRY_IN_TRANSITION and entry.wiring_thread == self.k.cur:
                raise self.k.panic(f"{self.name}: G7 transition: {entry!r} is left in transition for ever", "invariant")

    def is_ours(self, entry: VmMapEntry) -> bool:
        """Was it this thread that put it in transition?"""
        return entry.wiring_thread == self.k.cur

    def release(self, entry: VmMapEntry) -> bool:
        """An entry is in transition no more; does anybody wait for that?"""
        wanted = bool(entry.eflags & F.MAP_ENTRY_NEEDS_WAKEUP)
        self.entries_field.write()
        entry.eflags &= ~(_OURS | F.MAP_ENTRY_NEEDS_WAKEUP)
        entry.wiring_thread = -1
        return wanted


class Wiring2013(Wiring):
    """Wiring as 10.4 does it."""

    async def wire(self, start: int, end: int, flags: int) -> int:
        """vm_map_wire: for no range at all the map is not even locked."""
        return F.KERN_SUCCESS if start == end else await super().wire(start, end, flags)

    async def unlock_after_wire(self, *, wanted: bool) -> None:
        """First the lock, then the sleepers."""
        await self.lock.unlock()
        if wanted:
            await self.wake_sleepers()

    def count_user(self, size: int) -> bool:  # noqa: ARG002 - nobody counts
        """There is no limit on what users wire."""
        return True

    def discount_user(self, size: int) -> None:
        """Nor a count of it."""


class Wiring13(Wiring):
    """Wiring as 13.0 does it."""

    async def unlock_after_wire(self, *, wanted: bool) -> None:
        """First the sleepers, then the lock."""
        if wanted:
            await self.wake_sleepers()
        await self.lock.unlock()
