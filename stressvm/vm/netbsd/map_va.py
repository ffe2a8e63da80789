"""NetBSD's struct vm_map: finding addresses, and the protocol of waiting for them, one small step a method.

Source: sys/uvm/uvm_map.c 1.324 ("6", NetBSD 6.99.16) and 1.263.4.5 ("5.2"), uvm_map_findspace and uvm_map_prepare.
uvm_map(9) describes the interface; where page and code disagree, this follows the code.

Waiting for addresses (WANTVA). A thread that finds no room remembers the timestamp, sets the flag WANTVA, unlocks,
and then, with misc_lock held, sleeps a second at a time *while the flag is still set and the timestamp has not
moved*. Whoever removes entries clears the flag and broadcasts, if it was set, still with the map locked. The flag
alone would lose a wakeup: woken, the first of two waiters may fail again and set the flag before the second looks;
that the first had to lock the map, and so moved the timestamp, saves the second. INTRSAFE maps of 5.2 never move
theirs, so there the second sleeps on beside the room that is free: stressvm finds that, see scenarios/.

Two calls free addresses without a word: uvm_map_extract, of what it removes from its source, and uvm_map_replace with
nothing to put in. Who waits for those is woken by his second, no sooner.
"""

from __future__ import annotations

from stressvm.kernel.errors import UsageError
from stressvm.vm.netbsd import findspace as places
from stressvm.vm.netbsd import flags as F  # noqa: N812 - the constants, as the kernel writes them
from stressvm.vm.netbsd.callback import CallbackHead
from stressvm.vm.netbsd.map_base import VmMap as MapBase

#: With these, the alignment of a search is a remainder, in pages or in bytes.
_REMAINDERS = F.UVM_FLAG_COLORMATCH | F.PMAP_PREFERRED


class VmMap(MapBase):
    """See VmMap, which is the whole of it."""

    #: 5.2: who gives addresses back when they are short; None as long as nobody has registered.
    callbacks: CallbackHead | None = None

    @property
    def vmk_reclaim_callback(self) -> CallbackHead:
        """5.2: the map's reclaim callbacks, in struct vm_map_kernel. 6 has none, and neither have maps of processes."""
        if self.version != "5.2" or not self.is_kernel:
            what = f"version={self.version!r}" if self.version != "5.2" else "a user map"
            raise UsageError(f"{what} has no reclaim callbacks; they are in the kernel maps of version='5.2'")
        if self.callbacks is None:
            self.callbacks = CallbackHead(self.k, f"{self.name}.reclaim")
        return self.callbacks

    # ------------------------------------------------------------ search

    def findspace(self, hint: int, size: int, align: int = 0, flags: int = 0) -> int | None:
        """uvm_map_findspace: where `size` bytes fit, or None.

        The lowest aligned address at or above `hint` (below the map's minimum it counts as that). With
        UVM_FLAG_FIXED `hint` itself or nothing. VM_MAP_TOPDOWN maps look downwards, with the kernel's blind spots: see
        `stressvm.vm.netbsd.findspace`. With UVM_FLAG_COLORMATCH `align` is a page colour. Locks: the map's, for a
        lasting answer. Sleeps: no. Panics on an alignment that is no power of two, on one with FIXED, and on a colour
        that there is not; with DIAGNOSTIC on a place on the wrong side of the hint.
        """
        if flags & _REMAINDERS:
            self.check_remainder(hint, align, flags)
        elif align & (align - 1):
            raise self.k.panic(f"uvm_map_findspace: KASSERT: alignment {align:#x} is no power of two")
        if flags & F.UVM_FLAG_FIXED and align:
            raise self.k.panic("uvm_map_findspace: KASSERT: FIXED with an alignment")
        if self.debug:
            self.map_check("map_findspace entry")
        found = self.look_for(hint, size, align if flags & _REMAINDERS else align or 1, flags)
        if found.kassert and self.diagnostic:
            at = f"{found.address:#x}" if found.address is not None else "nowhere"
            raise self.k.panic(f"uvm_map_findspace: KASSERT({found.kassert}): hint {hint:#x}, found {at}")
        return found.address

    def room_for(self, hint: int, size: int, align: int, flags: int) -> bool:
        """Would a search find a place? It asserts nothing. Locks: any or none. Sleeps: no."""
        return self.look_for(hint, size, align if flags & _REMAINDERS else align or 1, flags).address is not None

    def look_for(self, hint: int, size: int, align: int, flags: int) -> places.Found:
        """The search itself, which asserts nothing; `align` is at least 1, or with COLORMATCH a colour."""
        if flags & F.UVM_FLAG_FIXED:
            return places.fixed(self.entries, hint, size)
        period, offset = self.alignment(align, flags) if flags & _REMAINDERS else (align, 0)
        if self.topdown:
            return places.top_down(self.entries, self.first_free, hint, size, period, offset)
        return places.bottom_up(self.entries, hint, size, period, offset)

    def check_remainder(self, hint: int, align: int, flags: int) -> None:
        """What COLORMATCH asserts, and what the model does not do."""
        colors = self.machine.colors
        if flags & F.UVM_FLAG_COLORMATCH:
            if self.version == "5.2":
                raise UsageError("version='5.2' has no COLORMATCH; ask for version='6'")
            if flags & F.PMAP_PREFERRED:
                raise UsageError("COLORMATCH on a machine with PMAP_PREFER is not modelled; leave one of them off")
            if align >= colors:
                raise self.k.panic(f"uvm_map_findspace: KASSERT: colour {align} of {colors}")
        if hint & (F.PAGE_SIZE - 1):
            raise UsageError(f"uvm_map(addr={hint:#x}): with page colours the hint must be a page's address")
        period, _ = self.alignment(align, flags)
        if not flags & F.UVM_FLAG_FIXED and not period <= self.min_offset < self.max_offset <= places.WORD - period:
            raise UsageError(
                f"{self!r} begins or ends less than {period:#x} bytes from an end of the address space: there rounding to "
                "a page colour wraps around, which is not modelled"
            )

    def alignment(self, align: int, flags: int) -> tuple[int, int]:
        """(period, remainder) in bytes of the addresses asked for; COLORMATCH and PMAP_PREFER have remainders."""
        if not flags & _REMAINDERS:
            return align or 1, 0
        if flags & F.PMAP_PREFERRED:
            return self.machine.prefer, align
        if self.machine.colors == 1:
            return 1, 0
        return self.machine.colors * F.PAGE_SIZE, align * F.PAGE_SIZE

    # ------------------------------------------------------------ uvm_map_prepare, step by step

    def check_request(self, size: int, flags: int) -> None:
        """What uvm_map_prepare asserts before all else.

        NOWAIT with WAITVA is looked at with DIAGNOSTIC only in a map with memory, as the kernel does; else always.
        """
        if size <= 0:
            raise self.k.panic("uvm_map_prepare: KASSERT(size > 0)")
        if flags & F.UVM_FLAG_NOWAIT and flags & F.UVM_FLAG_WAITVA and (self.diagnostic or self.memory is None):
            raise self.k.panic("uvm_map_prepare: KASSERT: NOWAIT and WAITVA exclude each other")

    async def prepare(self, hint: int, size: int, align: int, flags: int) -> tuple[int, int]:
        """uvm_map_prepare: find room, waiting for it as the flags say.

        Locks: none on entry; the write lock on exit if it returns (0, address). Sleeps: for the lock, unless
        TRYLOCK; for addresses, with WAITVA. NOWAIT does not keep it from sleeping for the lock.

        Returns:
            (0, address), (EAGAIN, 0) for TRYLOCK and a held lock, (ENOMEM, 0) for no room without WAITVA.
        """
        while True:
            if not await self.lock_for_prepare(flags):
                return F.EAGAIN, 0
            va = self.findspace(hint, size, align, flags)
            if va is not None:
                if self.memory is not None and self.kind is F.MapKind.KERNEL:
                    await self.memory.grow(va + size)
                return 0, va
            timestamp = await self.no_room()
            if self.callbacks is not None:
                await self.drain()
            if not await self.wait_for_va(timestamp, hint, size, align, flags):
                return F.ENOMEM, 0

    async def lock_for_prepare(self, flags: int) -> bool:
        """Try, then lock; False if TRYLOCK forbids to wait (5.2's INTRSAFE maps ignore it: they spin)."""
        if await self.lock.lock_try():
            return True
        if flags & F.UVM_FLAG_TRYLOCK and not self.ignores_trylock():
            return False
        await self.lock.lock()
        return True

    async def drain(self) -> None:
        """vm_map_drain: 5.2: ask those who registered with a kernel map to give addresses back.

        The flags are not looked at, so a caller with NOWAIT asks, too. Locks: none on entry and exit. Sleeps: what the
        callbacks do may.
        """
        if self.callbacks is not None:
            await self.callbacks.run_roundrobin(None)

    def ignores_trylock(self) -> bool:
        """INTRSAFE maps spin whatever the flags say."""
        return self.intrsafe

    async def no_room(self) -> int:
        """Remember the timestamp, set WANTVA, unlock; the timestamp. Locks: the write lock on entry, none on exit."""
        timestamp = self.lock.timestamp.peek()
        self.flags.write(self.flags.peek() | F.VM_MAP_WANTVA)
        await self.lock.unlock()
        return timestamp

    async def wait_for_va(self, timestamp: int, hint: int, size: int, align: int, flags: int) -> bool:
        """Sleep until it makes sense to look again; False if the caller does not want to sleep.

        Locks: none on entry and exit. Sleeps: with WAITVA. Without it a caller fails only if nobody has locked the
        map for writing meanwhile; else it, too, looks again.
        """
        misc_lock = self.lock.misc_lock
        await misc_lock.lock()
        while await self.unchanged_since(timestamp):
            if not flags & F.UVM_FLAG_WAITVA:
                await misc_lock.unlock()
                return False
            self.ghost.waits[self.k.cur] = (timestamp, self.lock.timestamp.peek())
            await self.sleep_for_va(hint, size, align, flags)
        await misc_lock.unlock()
        return True

    async def unchanged_since(self, timestamp: int) -> bool:
        """The condition to sleep on: WANTVA still set, and nobody has locked the map for writing since."""
        return bool(await self.flags.load() & F.VM_MAP_WANTVA) and await self.lock.timestamp.load() == timestamp

    async def sleep_for_va(self, hint: int, size: int, align: int, flags: int) -> None:
        """Sleep once, for a second at most. Locks: misc_lock on entry and exit."""
        await self.lock.cv.timedwait(
            self.lock.misc_lock,
            self.k.hz,
            wmesg="addresses",
            until=lambda: self.room_for(hint, size, align, flags),
        )
