"""FreeBSD's processes beside each other: ranges for the arguments of execve, forks and wirings, faults in one stack."""

from stressvm import Kernel, scenario
from stressvm.vm import freebsd

PAGE = freebsd.PAGE_SIZE
LOW = 1 << 32
ARGS = "FreeBSD 13.0, sys/kern/kern_exec.c, exec_alloc_args_kva and exec_release_args_kva"
FORK = "FreeBSD 13.0, sys/vm/vm_map.c, vmspace_fork and vm_map_wait_busy"
GROW = "FreeBSD 13.0, sys/vm/vm_map.c, vm_map_growstack"


class KeepGoing(freebsd.Fork):
    """A fork that does not wait until nobody wires."""

    async def keep_out(self) -> None:
        """Whether the map is busy is not asked."""


class OldGap(freebsd.VmMap13):
    """A fault that goes on with the gap it knew, although it lost the lock on the way to the write lock."""

    def lost(self, gap_entry: freebsd.VmMapEntry) -> freebsd.VmMapEntry | None:
        """Somebody else may have made it smaller, or taken all of it."""
        return gap_entry


def execs(k: Kernel, cpus: int, ranges: int, threads: int) -> None:
    """So many threads, spread over the CPUs, take a range each and give it back."""
    pool = freebsd.ExecArgs(k, freebsd.exec_map(k, pages=ranges), cpus=cpus, entries=ranges)

    async def execve(cpu: int) -> None:
        argkva = await freebsd.exec_alloc_args_kva(pool, cpu)
        k.record(took=argkva.number)
        await freebsd.exec_free_args_kva(pool, argkva, cpu)

    for number in range(threads):
        k.spawn(execve, number % cpus, name=f"exec{number}")


def process(
    k: Kernel, cls: type[freebsd.VmMap] = freebsd.VmMap13, fork: type[freebsd.Fork] = freebsd.Fork
) -> freebsd.Vmspace:
    """A process with 64 pages of addresses, whose faults look into the map as every fault does."""
    return freebsd.vmspace_alloc(k, LOW, LOW + 64 * PAGE, cls=cls, fork=fork, fault=freebsd.LookupFault(), name="proc")


def fork_beside_mlock(k: Kernel, fork: type[freebsd.Fork]) -> None:
    """One thread wires two pages that nobody has touched, another forks."""
    vm = process(k, fork=fork)
    freebsd.vm_map_insert(vm.map, None, 0, LOW, LOW + 2 * PAGE)

    async def mlock() -> None:
        k.record(wired=await freebsd.vm_map_wire(vm.map, LOW, LOW + 2 * PAGE, freebsd.VM_MAP_WIRE_USER))

    async def divide() -> None:
        child = await freebsd.fork1(vm)
        k.record(pages=sum(1 for entry in child.map.entries if entry.object is not None) if child else None)

    async def account() -> None:
        for thread in threads:
            await k.join(thread)
        freebsd.audit(k)

    threads = [k.spawn(mlock, name="mlock"), k.spawn(divide, name="fork")]
    k.spawn(account, name="account")


def two_faults(k: Kernel, cls: type[freebsd.VmMap]) -> None:
    """Two threads touch the page below a stack that grows downwards, by four pages at a time."""
    freebsd.sysctl(k).sgrowsiz = 4 * PAGE
    vm = process(k, cls)
    size, end = 16 * PAGE, LOW + 32 * PAGE
    prot = freebsd.VM_PROT_RW
    vm.map.stack_locked(end - size, size, 4 * PAGE, prot, prot, freebsd.MAP_STACK_GROWS_DOWN)

    async def push(addr: int) -> None:
        result, found = await vm.map.vm_map_lookup(addr, freebsd.VM_PROT_WRITE, grow=True)
        assert found is not None, f"a fault in the stack's gap ended with {result}, and the thread with a signal"
        await found.vm_map.lookup_done()

    for number in range(2):
        vm.adopt(k.spawn(push, end - (5 + number) * PAGE, name=f"push{number}"))


@scenario(expect="lost-wakeup", source=ARGS)
def freebsd13_exec_args_few(k: Kernel) -> None:
    """One range for one CPU, which two threads want: who releases it puts it into the slot, and the sleeper sleeps on.

    A range that goes into a slot wakes nobody, since whoever looks there next will find it. A sleeper does not look.
    The kernel has more ranges than slots, so this is not as it ships; see the next.
    """
    execs(k, cpus=1, ranges=1, threads=2)


@scenario(source=ARGS)
def freebsd13_exec_args(k: Kernel) -> None:
    """One range more than there are slots is enough: when all are released one goes on the list, and wakes the sleeper.

    Until then it may wait beside an idle range. The kernel has 2 * CPUs + 4 ranges.
    """
    execs(k, cpus=1, ranges=2, threads=3)


@scenario(source=FORK)
def freebsd13_fork_busy(k: Kernel) -> None:
    """A fork beside mlock: it waits while pages are faulted in, and then copies them at once, as they are wired."""
    fork_beside_mlock(k, freebsd.Fork)


@scenario(source=FORK, expect="invariant")
def freebsd13_fork_not_waiting(k: Kernel) -> None:
    """Did it not wait, it would copy pages for the child that are not there yet."""
    fork_beside_mlock(k, KeepGoing)


@scenario(source=GROW)
def freebsd13_growstack(k: Kernel) -> None:
    """Two faults in the gap of a stack: one grows it, the other finds it grown."""
    two_faults(k, freebsd.VmMap13)


@scenario(source=GROW, expect="assertion")
def freebsd13_growstack_old_gap(k: Kernel) -> None:
    """Did the second believe in the gap it knew, its own address would not be in it, and it would be killed."""
    two_faults(k, OldGap)
