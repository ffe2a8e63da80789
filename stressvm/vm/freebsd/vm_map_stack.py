"""Stacks that grow: a piece of memory, and beside it a gap, a guard that the stack may be extended into by a fault.

A fault in the gap has the map locked for reading. To grow the stack it needs the write lock, and if it is not the only
reader it loses its hold on the way: then every entry it knows may be gone, and it looks again. Whoever comes second finds
that the address is in no gap any more, and that is success.

A stack that grows downwards gets another entry for each piece; one that grows upwards is extended. Some of the gap is
never grown into, so that two stacks do not meet: 13 notes in the gap how much when the stack is made; 2013 asks anew
what security.bsd.stack_guard_page says.

Three defects are kept as they are. In 13, if a piece could not be inserted in place of a whole gap, the gap is put back
without the note, and what stands there in its place, its address, is a guard that no stack can respect: it never grows
again. (Only a stack without guard can fill its gap.) In both versions, if a stack that grows upwards cannot be extended since
its object shadows another, the swap that was reserved for it is never given back; and if it has been left to a child by a
fork, and not been written to since, its entry and its object are both charged for what is reserved once. (No machine's
stacks grow upwards.)

Source: sys/vm/vm_map.c, vm_map_stack, vm_map_stack_locked, vm_map_growstack.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from stressvm.vm.freebsd import flags as F  # noqa: N812 - the constants, as the kernel writes them
from stressvm.vm.freebsd.tunables import sysctl
from stressvm.vm.freebsd.vm_map_delete import Deletion
from stressvm.vm.freebsd.vm_map_insert import Insertion
from stressvm.vm.freebsd.vm_map_wire import Wiring

if TYPE_CHECKING:
    from stressvm.kernel.kernel import Kernel
    from stressvm.vm.freebsd.vm_map_entry import VmMapEntry

_GROWS_DOWN: Final = F.MAP_STACK_GROWS_DOWN
_GROWS: Final = F.MAP_STACK_GROWS_DOWN | F.MAP_STACK_GROWS_UP


@dataclass(slots=True, eq=False)
class Limits:
    """What a process may have, and where its main stack is; sizes and addresses in bytes, None for no limit.

    Attributes:
        stack, vmem, memlock: RLIMIT_STACK, which is for the main stack only; RLIMIT_VMEM; RLIMIT_MEMLOCK.
        maxsaddr, usrstack: between these is the main stack.
        ssize: vm_ssize: how large the main stack is.
    """

    stack: int | None = None
    vmem: int | None = None
    memlock: int | None = None
    maxsaddr: int = 0
    usrstack: int = 0
    ssize: int = 0

    def main(self, addr: int) -> bool:
        """Is it an address of the main stack?"""
        return self.maxsaddr <= addr < self.usrstack


def curproc(k: Kernel) -> dict[int, Limits]:
    """Of which process a thread is, for the threads that are said to be of one. Others may be of any."""
    return k.once("curproc", dict)


@dataclass(frozen=True, slots=True)
class Growth:
    """What a stack is about to do: take `amount` bytes of the gap. `main`: it is the process's main stack."""

    gap: VmMapEntry
    stack: VmMapEntry
    amount: int
    down: bool
    main: bool

    @property
    def start(self) -> int:
        """Where the new piece begins."""
        return self.gap.end - self.amount if self.down else self.stack.end

    @property
    def whole(self) -> bool:
        """Does it take all of the gap?"""
        return self.gap.size == self.amount


class Stacks(Insertion, Deletion, Wiring):
    """A map with stacks that grow.

    Attributes:
        limits: what its process may have; None for a map without one: anything.
    """

    limits: Limits | None = None

    # ------------------------------------------------------------ a new stack

    async def stack(self, addrbos: int, max_ssize: int, prot: int, max_prot: int, cow: int) -> int:
        """vm_map_stack. Locks: none on entry and exit. Sleeps: for the lock."""
        if self.flags & F.MAP_WIREFUTURE:
            raise self.k.panic("vm_map_stack: MPASS: what is mapped in the future is to be wired")
        growsize = sysctl(self.k).sgrowsiz
        await self.lock.lock()
        if self.beyond_vmem(min(max_ssize, growsize)):
            result = F.KERN_NO_SPACE
        else:
            result = self.stack_locked(addrbos, max_ssize, growsize, prot, max_prot, cow)
        await self.lock.unlock()
        return result

    def stack_locked(self, addrbos: int, max_ssize: int, growsize: int, prot: int, max_prot: int, cow: int) -> int:
        """vm_map_stack_locked: map the first piece of a stack, and its gap.

        Locks: the write lock throughout, or while the world is built. Sleeps: no. Panics for both directions, or none.

        Args:
            addrbos: where the whole begins, gap included.
            max_ssize: how large that is, bytes.
            growsize: how large the first piece is, bytes; less if there would be no room for the guard.
            prot: VM_PROT_*.
            max_prot: the most that it may become.
            cow: MAP_*, with MAP_STACK_GROWS_DOWN or MAP_STACK_GROWS_UP.

        Returns:
            KERN_SUCCESS, or with nothing changed what `stack_refused` says, KERN_NO_SPACE, or what `insert` returns.
        """
        orient = cow & _GROWS
        if not orient or orient == _GROWS:
            raise self.k.panic("vm_map_stack: KASSERT: a stack grows in one direction")
        sgp = sysctl(self.k).stack_guard_page * F.PAGE_SIZE
        if error := self.stack_refused(addrbos, max_ssize, sgp):
            return error
        first = min(growsize, max_ssize - sgp)
        end = addrbos + max_ssize
        found, prev = self.lookup(addrbos)
        if found or self.next_overlaps(prev, end):
            return F.KERN_NO_SPACE
        down = orient == _GROWS_DOWN
        bottom = end - first if down else addrbos
        if error := self.insert(None, 0, bottom, bottom + first, prot, max_prot, cow):
            return error
        stack = self.after(prev)
        assert stack is not None, "what was inserted"
        gap_start, gap_end = (addrbos, bottom) if down else (bottom + first, end)
        if gap_start == gap_end and not self.needs_gap():
            return F.KERN_SUCCESS
        result = self.insert_gap(gap_start, gap_end, down=down)
        if result:
            self.delete_entry(stack)
        else:
            gap = self.entries.prev_of(stack) if down else self.entries.next_of(stack)
            assert gap is not None, "what was inserted"
            gap.next_read = sgp
        return result

    def insert_gap(self, start: int, end: int, *, down: bool) -> int:
        """The guard that a stack may grow into. Returns: KERN_*."""
        which = F.MAP_CREATE_STACK_GAP_DN if down else F.MAP_CREATE_STACK_GAP_UP
        return self.insert(None, 0, start, end, F.VM_PROT_NONE, F.VM_PROT_NONE, F.MAP_CREATE_GUARD | which)

    def stack_refused(self, addrbos: int, max_ssize: int, sgp: int) -> int:
        """What is returned for such a range and such a guard, whatever is mapped there; 0 if they are possible."""
        raise NotImplementedError

    def needs_gap(self) -> bool:
        """Must a stack have a gap, even one of no bytes, which cannot be inserted?"""
        raise NotImplementedError

    # ------------------------------------------------------------ growing

    async def growstack(self, addr: int, gap_entry: VmMapEntry | None) -> int:
        """vm_map_growstack: extend the stack beside a gap as far as an address in it.

        Locks: the read lock on entry and exit, whatever comes of it; it may have been released meanwhile, and entries
        may be gone. Sleeps: for the lock; to wire the new piece if what is mapped in the future is to be wired.

        Args:
            addr: the address.
            gap_entry: the gap that it is in, if that is known.

        Returns:
            KERN_SUCCESS, also if it is not in a gap (somebody else grew the stack); KERN_FAILURE for a gap without a
            stack, a thread of another process, or an object that cannot be extended; KERN_NO_SPACE if the guard, a
            limit, or swap do not allow it; or what `insert` returns, or (13) `wire`.
        """
        if curproc(self.k).get(self.k.cur, self.limits) is not self.limits:
            return F.KERN_FAILURE
        while True:
            if gap_entry is None:
                found, gap_entry = await self.lookup_entry(addr)
                if not found or gap_entry is None:
                    return F.KERN_FAILURE
            result, growth = self.growth(addr, gap_entry)
            if growth is None:
                return result
            if await self.lock.lock_upgrade():
                break
            gap_entry = self.lost(gap_entry)
            await self.lock.lock_read()
        start, end = growth.start, growth.start + growth.amount
        result = self.grow_down(growth) if growth.down else self.grow_up(growth)
        if not result and growth.main and self.limits is not None:
            self.limits.ssize += growth.amount
        if not result and self.flags & F.MAP_WIREFUTURE:
            return await self.wire_grown(start, end)
        await self.lock.lock_downgrade()
        return result

    def lost(self, gap_entry: VmMapEntry) -> VmMapEntry | None:  # noqa: ARG002 - a defect may believe in it
        """The lock was lost to somebody else: which entry to go on with. None, to look it up again."""
        return None

    def growth(self, addr: int, gap: VmMapEntry) -> tuple[int, Growth | None]:
        """By how much to grow. Locks: at least the read lock. Returns: (0, how), or (KERN_*, None)."""
        if not gap.guard:
            return F.KERN_SUCCESS, None
        if gap.owner is not self.entries:
            raise self.k.panic(f"vm_map_growstack: {gap!r} is not in {self.name} any more", "invariant")
        down = bool(gap.eflags & F.MAP_ENTRY_STACK_GAP_DN)
        stack = self.stack_of(gap)
        if stack is None:
            return F.KERN_FAILURE, None
        amount = F.round_page((stack.start - addr if down else addr + 1 - stack.end) & F.VM_OFFSET_MASK)
        guard = self.guard_size(gap)
        if guard + amount > gap.size:
            return F.KERN_NO_SPACE, None
        limits = self.limits
        main = limits is not None and limits.main(addr)
        room = None if limits is None or limits.stack is None or not main else limits.stack - limits.ssize
        if room is not None and amount > room:
            return F.KERN_NO_SPACE, None
        step = sysctl(self.k).sgrowsiz
        amount = min(-(-amount // step) * step, gap.size - guard)
        if room is not None and amount > room:
            amount = F.trunc_page(room)
        if self.beyond_memlock(amount) or self.beyond_vmem(amount):
            return F.KERN_NO_SPACE, None
        return F.KERN_SUCCESS, Growth(gap, stack, amount, down, main)

    def stack_of(self, gap: VmMapEntry) -> VmMapEntry | None:
        """The stack that a gap belongs to, if it touches it."""
        if gap.eflags & F.MAP_ENTRY_STACK_GAP_DN:
            stack = self.entries.next_of(gap)
            if stack is not None and stack.eflags & F.MAP_ENTRY_GROWS_DOWN and stack.start == gap.end:
                return stack
        elif gap.eflags & F.MAP_ENTRY_STACK_GAP_UP:
            stack = self.entries.prev_of(gap)
            if stack is not None and stack.eflags & F.MAP_ENTRY_GROWS_UP and stack.end == gap.start:
                return stack
        return None

    def guard_size(self, gap: VmMapEntry) -> int:
        """How many bytes of a gap are never grown into."""
        raise NotImplementedError

    def beyond_vmem(self, amount: int) -> bool:
        """Would so many bytes more be too many for the process?"""
        limits = self.limits
        return limits is not None and limits.vmem is not None and self.size + amount > limits.vmem

    def beyond_memlock(self, amount: int) -> bool:
        """If they are to be wired: would so many bytes more be too many?"""
        limits = self.limits
        if not self.flags & F.MAP_WIREFUTURE or limits is None or limits.memlock is None or sysctl(self.k).old_mlock:
            return False
        return sum(entry.size for entry in self.entries if entry.wired_count > 0) + amount > limits.memlock

    def grow_down(self, growth: Growth) -> int:
        """Map another piece below the stack; if that fails the gap is put back. Locks: the write lock. Returns: KERN_*."""
        gap, stack, start = growth.gap, growth.stack, growth.start
        gap_start, gap_end, whole = gap.start, gap.end, growth.whole
        if whole:
            self.delete_entry(gap)
        else:
            self.resize(gap, start)
        result = self.insert(None, 0, start, gap_end, stack.protection, stack.max_protection, _GROWS_DOWN)
        if result and not whole:
            self.resize(gap, gap_end)
        elif result and self.insert_gap(gap_start, gap_end, down=True):
            raise self.k.panic("vm_map_growstack: MPASS: the gap could not be put back")
        return result

    def grow_up(self, growth: Growth) -> int:
        """Extend the stack and its object upwards. Locks: the write lock. Returns: KERN_*."""
        self.changed()
        gap, stack, amount = growth.gap, growth.stack, growth.amount
        obj = stack.object
        cred = stack.cred if stack.cred is not None or obj is None else obj.cred
        if cred is not None and not cred.swap_reserve(amount):
            return F.KERN_NO_SPACE
        if obj is not None and not obj.coalesce(stack.offset, stack.size, amount, reserved=cred is not None):
            return F.KERN_FAILURE
        if growth.whole:
            self.delete_entry(gap)
            self.resize(stack, stack.end + amount)
        else:
            # Nothing becomes free or is taken, so the tree stays as it is.
            self.changing.resize(gap, start=gap.start + amount)
            self.changing.resize(stack, end=stack.end + amount)
        self.size += amount
        return F.KERN_SUCCESS

    async def wire_grown(self, start: int, end: int) -> int:
        """Wire the new piece. Locks: the write lock on entry, the read lock on exit. Sleeps: as `wire`. Returns: KERN_*."""
        raise NotImplementedError


class Stacks2013(Stacks):
    """Stacks of 10.4."""

    def stack_refused(self, addrbos: int, max_ssize: int, sgp: int) -> int:
        """KERN_NO_SPACE for whatever is wrong; that the end is within the map is left to `insert`."""
        inside = self.min_offset <= addrbos <= self.max_offset
        if not inside or addrbos + max_ssize > F.VM_OFFSET_MASK or sgp >= max_ssize:
            return F.KERN_NO_SPACE
        return F.KERN_SUCCESS

    def needs_gap(self) -> bool:
        """It must; without a guard, a stack no larger than its first piece cannot be made."""
        return True

    def guard_size(self, gap: VmMapEntry) -> int:  # noqa: ARG002 - it is asked for anew
        """As many pages as it is said now."""
        return sysctl(self.k).stack_guard_page * F.PAGE_SIZE

    async def wire_grown(self, start: int, end: int) -> int:
        """The lock is dropped for it, and it does not matter what comes of it."""
        await self.lock.unlock()
        await self.wire(start, end, F.VM_MAP_WIRE_USER | F.VM_MAP_WIRE_NOHOLES)
        await self.lock.lock_read()
        return F.KERN_SUCCESS


class Stacks13(Stacks):
    """Stacks of 13.0."""

    def stack_refused(self, addrbos: int, max_ssize: int, sgp: int) -> int:
        """KERN_INVALID_ADDRESS outside the map, KERN_INVALID_ARGUMENT for no room beside the guard."""
        end = (addrbos + max_ssize) & F.VM_OFFSET_MASK
        if not max_ssize or end < addrbos or addrbos < self.min_offset or end > self.max_offset:
            return F.KERN_INVALID_ADDRESS
        return F.KERN_INVALID_ARGUMENT if sgp >= max_ssize else F.KERN_SUCCESS

    def needs_gap(self) -> bool:
        """A stack that cannot grow has none."""
        return False

    def guard_size(self, gap: VmMapEntry) -> int:
        """What was noted in the gap."""
        return gap.next_read

    async def wire_grown(self, start: int, end: int) -> int:
        """Under the lock, as far as wiring holds it."""
        result, wanted = await self.wire_locked(start, end, F.VM_MAP_WIRE_USER | F.VM_MAP_WIRE_NOHOLES)
        if wanted:
            await self.wake_sleepers()
        await self.lock.lock_downgrade()
        return result
