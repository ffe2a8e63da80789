"""FreeBSD's memory under the map: copies on write, wiring, kernel memory, and what 10.4 did not see."""

from stressvm import Kernel, scenario
from stressvm.vm import freebsd, pages

PAGE = freebsd.PAGE_SIZE
LOW = 0x1_0000_0000
READ, WRITE, RW = freebsd.VM_PROT_READ, freebsd.VM_PROT_WRITE, freebsd.VM_PROT_RW
FORK = "FreeBSD 13.0, sys/vm/vm_map.c, vm_map_copy_entry; sys/vm/vm_fault.c, vm_fault"
RELOCK = "FreeBSD 13.0, sys/vm/vm_fault.c, vm_fault_relookup"
WIRE = "FreeBSD 13.0, sys/vm/vm_map.c, vm_map_wire; sys/vm/vm_fault.c, vm_fault_allocate"
ENTER = "FreeBSD 10.4, sys/amd64/amd64/pmap.c, pmap_enter: one store, and the processors are told afterwards"
SHARED = "FreeBSD 10.4, sys/vm/vm_fault.c, vm_fault_hold: the old page is released, and other mappings of it stay"
KMEM = "FreeBSD 13.0, sys/vm/vm_kern.c, kmem_back_domain; sys/vm/vm_domainset.c, vm_domainset_iter_policy"
VMEM = "FreeBSD 10.4, sys/kern/subr_vmem.c, vmem_xalloc: after a failed import it sleeps without another look"


def process(memory: freebsd.Memory, version: str, fork: type[freebsd.Fork] | None = None) -> freebsd.Vmspace:
    """An address space with room for 16 pages."""
    return freebsd.vmspace_alloc(memory.k, LOW, LOW + 16 * PAGE, version=version, memory=memory, fork=fork)


async def write(vm: freebsd.Vmspace, page: int, text: str) -> None:
    """A program writes to a page."""
    result, _ = await freebsd.vmspace_access(vm.map, LOW + page * PAGE, WRITE, text)
    assert not result, f"write: {result}"


async def read(vm: freebsd.Vmspace, page: int) -> str:
    """A program reads a page."""
    result, found = await freebsd.vmspace_access(vm.map, LOW + page * PAGE, READ)
    assert found is not None, f"read: {result}"
    return found.content


def fork_and_write(k: Kernel, fork: type[freebsd.Fork] | None) -> None:
    """A process of two threads, each on its processor: one forks, the other goes on writing."""
    vm = process(freebsd.Memory(pages.VmPages13(k, 14)), "13", fork)
    vm.map.insert(None, 0, LOW, LOW + PAGE)

    async def forks() -> None:
        await write(vm, 0, "before")
        child = await freebsd.fork1(vm)
        assert child is not None
        first = await read(child, 0)
        await write(vm, 0, "parent")
        assert await read(child, 0) == first, "the child sees what the parent writes after the fork"
        await write(child, 0, "child")
        assert await read(vm, 0) != "child", "the parent sees what the child writes"

    async def writes() -> None:
        await write(vm, 0, "meanwhile")

    k.spawn(forks)
    k.spawn(writes)


@scenario(source=FORK, executions=300)
def freebsd13_fork_and_write(k: Kernel) -> None:
    """A fork takes the right to write from all mappings, and waits until every processor knows: each side has its page."""
    fork_and_write(k, None)


class KeepsWriting(freebsd.Fork):
    """A fork that leaves the parent's mappings as they are."""

    async def revoke_writing(self) -> None:
        """Nothing."""


@scenario(expect="invariant", source=FORK)
def freebsd13_fork_keeps_writing(k: Kernel) -> None:
    """The mappings stay writable: what the parent writes without a fault, the child reads."""
    fork_and_write(k, KeepsWriting)


@scenario(expect="invariant", source=ENTER)
def freebsd2013_two_pages(k: Kernel) -> None:
    """One thread copies a page on write; another, on another processor, goes on using the old one.

    10.4 puts the new page into the page table, and only then tells the other processor to forget the old one. In between
    the two threads of one process have two pages at one address. Later kernels clear the entry and tell the processors
    first.
    """
    vm = process(freebsd.Memory(pages.VmPages2013(k, 12)), "2013")
    vm.map.insert(None, 0, LOW, LOW + PAGE)

    async def writes() -> None:
        await write(vm, 0, "before")
        child = await freebsd.fork1(vm)
        assert child is not None
        k.spawn(reads, name="reads")
        await write(vm, 0, "after")

    async def reads() -> None:
        for _ in range(3):
            await read(vm, 0)

    k.spawn(writes, name="writes")


def shared_copy(k: Kernel, version: str) -> None:
    """A private mapping of a file that a child shares (minherit): one has read a page, the other one writes it."""
    phys = pages.VmPages13(k, 12) if version == "13" else pages.VmPages2013(k, 12)
    vm = process(freebsd.Memory(phys), version)
    file = freebsd.VmObject(1, pager=freebsd.Pager("file"))
    cow = freebsd.MAP_COPY_ON_WRITE | freebsd.MAP_INHERIT_SHARE
    vm.map.insert(file, 0, LOW, LOW + PAGE, RW, RW, cow)

    async def parent() -> None:
        child = await freebsd.fork1(vm)
        assert child is not None
        thread = k.spawn(read, child, 0, name="child")
        await write(vm, 0, "shared")
        await k.join(thread)
        seen = await read(child, 0)
        assert seen == "shared", f"parent and child share the page, and the child still reads {seen}"

    k.spawn(parent, name="parent")


@scenario(expect="assertion", source=SHARED)
def freebsd2013_copy_unseen(k: Kernel) -> None:
    """The page is copied for the parent, and the child's mapping still leads to the file's page, for as long as it likes."""
    shared_copy(k, "2013")


@scenario(source="FreeBSD 13.0, sys/vm/vm_fault.c, vm_fault_cow", executions=300)
def freebsd13_copy_seen(k: Kernel) -> None:
    """13 removes all mappings of the page that was copied, if the copy is shared."""
    shared_copy(k, "13")


@scenario(source=WIRE, executions=300)
def freebsd13_wire_short_of_pages(k: Kernel) -> None:
    """mlock(2) needs more pages than there are: its faults wait, and the page daemon writes other pages to swap."""
    phys = pages.VmPages13(k, 8)
    memory = freebsd.Memory(phys, swap=pages.Swap(k, 8))
    vm = process(memory, "13")
    vm.map.insert(None, 0, LOW, LOW + 2 * PAGE)
    vm.map.insert(None, 0, LOW + 2 * PAGE, LOW + 4 * PAGE, READ)
    phys.fill(pages.PageObject(k, "old", pages.Swap(k, 8)), 5, queue=pages.PageQueue.INACTIVE)
    phys.start_daemon()

    async def wires() -> None:
        result = await freebsd.vm_map_wire(vm.map, LOW, LOW + 4 * PAGE, freebsd.VM_MAP_WIRE_USER)
        assert not result, f"mlock: {result}"
        assert phys.wired == 4
        await k.join(user)
        await freebsd.vmspace_free(vm)
        memory.audit()

    async def uses() -> None:
        await write(vm, 0, "used")

    user = k.spawn(uses, name="uses")
    k.spawn(wires, name="wires")


class WaitsForTheMap(freebsd.VmFault):
    """A fault that waits for the map's lock although it has a page busy."""

    async def relock_map(self, fs: freebsd.FaultState) -> bool:
        """Wait, not try."""
        await fs.map.lock.lock_read()
        return True


@scenario(expect="deadlock", source=RELOCK)
def freebsd13_fault_waits_for_the_map(k: Kernel) -> None:
    """A page is read from swap, busy, and unmapped meanwhile: who unmaps it has the map, and waits for the page."""
    swap = pages.Swap(k, 4)
    memory = freebsd.Memory(pages.VmPages13(k, 10), swap=swap, fault=WaitsForTheMap())
    vm = process(memory, "13")
    anonymous = freebsd.VmObject(2, anon=True)
    vm.map.insert(anonymous, 0, LOW, LOW + 2 * PAGE)
    store = memory.store(anonymous)
    swap.contents[1] = "swapped"
    assert store.pager is not None
    store.pager.assign(0, 1)

    async def reads() -> None:
        await freebsd.vmspace_access(vm.map, LOW, READ)

    async def unmaps() -> None:
        await freebsd.vm_map_remove(vm.map, LOW, LOW + PAGE)

    k.spawn(reads)
    k.spawn(unmaps)


@scenario(source=KMEM, executions=300)
def freebsd13_kmem_waits_for_the_daemon(k: Kernel) -> None:
    """Two threads want kernel memory, with M_WAITOK, and all pages are in use: the page daemon frees some, for both."""
    phys = pages.VmPages13(k, 8)
    kernel_map = freebsd.kernel_map(k, 16, memory=freebsd.Memory(phys))
    kmem = freebsd.kmem_init(kernel_map, import_quantum=PAGE)
    phys.fill(pages.PageObject(k, "old", pages.Swap(k, 6)), 6, queue=pages.PageQueue.INACTIVE)
    phys.start_daemon()

    async def user() -> None:
        addr = await freebsd.kmem_malloc(kmem, 2 * PAGE, freebsd.M_WAITOK | freebsd.M_ZERO)
        assert addr
        await freebsd.kmem_free(kmem, addr, 2 * PAGE)

    for number in range(2):
        k.spawn(user, name=f"user{number}")


@scenario(expect="livelock", source=KMEM, max_steps=1_000)
def freebsd13_kmem_spins_for_addresses(k: Kernel) -> None:
    """There are pages, and no addresses: kmem_malloc with M_WAITOK never sleeps, as it only ever waits for pages."""
    kernel_map = freebsd.kernel_map(k, 2, memory=freebsd.Memory(pages.VmPages13(k, 8)))
    kmem = freebsd.kmem_init(kernel_map, import_quantum=PAGE)

    async def user() -> None:
        await freebsd.kmem_malloc(kmem, 3 * PAGE, freebsd.M_WAITOK)

    k.spawn(user)


def import_and_free(k: Kernel) -> None:
    """All of the kernel's addresses are in use; one thread wants some, another gives some back."""
    kernel_map = freebsd.kernel_map(k, 6, version="2013", memory=freebsd.Memory(pages.VmPages2013(k, 16)))
    kmem = freebsd.kmem_init(kernel_map, import_quantum=PAGE, qcache_max=0, kmem_size=4 * PAGE)
    arena = kmem.kernel_arena

    async def has_it() -> None:
        addr = await freebsd.kmem_malloc(kmem, 2 * PAGE, freebsd.M_WAITOK, arena)
        thread = k.spawn(wants_it, name="wants_it")
        await freebsd.kmem_free(kmem, addr, 2 * PAGE, arena)
        await k.join(thread)

    async def wants_it() -> None:
        assert await freebsd.kmem_malloc(kmem, 2 * PAGE, freebsd.M_WAITOK, arena)

    k.spawn(has_it, name="has_it")


@scenario(expect="lost-wakeup", source=VMEM)
def freebsd2013_vmem_import_misses_a_free(k: Kernel) -> None:
    """An arena without room tries to import, with its lock given up; what is freed meanwhile is not seen, and it sleeps."""
    import_and_free(k)


@scenario(source=VMEM, executions=300)
def freebsd2013_vmem_periodic(k: Kernel) -> None:
    """The same with what makes it bearable: every ten seconds, whoever sleeps in any arena is woken to look again."""
    freebsd.vmem_start_callout(k)
    import_and_free(k)
