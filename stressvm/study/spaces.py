"""Address spaces to be studied: one way to ask, whichever kernel's protocol is below, and the threads that ask.

A `Space` has addresses that clients take and give back: a NetBSD submap (uvm_km_alloc), a FreeBSD submap
(kmap_alloc_wait), or FreeBSD's pool of ranges for execve (exec_alloc_args_kva). `drive` makes the threads of a workload,
which note what they ask for and get; `Measures` reads that. Your own is a class with the methods of `Space`.
"""

from __future__ import annotations

from itertools import pairwise
from typing import TYPE_CHECKING, Any, Final, Protocol

from stressvm.kernel.errors import UsageError
from stressvm.study.machine import compute
from stressvm.study.workloads import Mode
from stressvm.vm import freebsd, netbsd
from stressvm.vm.freebsd.map_lock import UserMapLock

if TYPE_CHECKING:
    from collections.abc import Sequence

    from stressvm.kernel.kernel import Kernel
    from stressvm.kernel.object import KernelObject
    from stressvm.study.machine_kernel import MachineKernel
    from stressvm.study.measures import Measures
    from stressvm.study.workloads import Client, Request, Workload
    from stressvm.vm.skiplist import EntryList

PAGE: Final = 4096


class Space(Protocol):
    """Addresses to take and give back."""

    def queues(self) -> Sequence[KernelObject]:
        """Where threads sleep for addresses."""

    def lock(self) -> KernelObject:
        """The lock whose holds and waits are measured."""

    def gaps(self) -> tuple[int, int, int]:
        """Free pages, in how many gaps, and how many of them in the largest. No step of any thread."""

    async def take(self, client: int, pages: int, mode: Mode) -> int:
        """Addresses for so many pages, for client number so-and-so; 0 if there are none and the mode is not WAIT."""

    async def give(self, client: int, taken: int, pages: int) -> None:
        """Give back what `take` returned."""


def _gaps(entries: EntryList, low: int, high: int) -> tuple[int, int, int]:  # type: ignore[type-arg]
    edges = [(low, low), *((entry.start, entry.end) for entry in entries), (high, high)]
    gaps = [(after - before) // PAGE for (_, before), (after, _) in pairwise(edges) if after > before]
    return sum(gaps), len(gaps), max(gaps, default=0)


class NetBSDSpace:
    """A kernel submap of NetBSD's, for addresses alone: uvm_km_alloc with VAONLY.

    Args:
        k: the kernel.
        pages: how large it is.
        version: "6" or "5.2".
        intrsafe: 5.2: a map for interrupt handlers as well.
        cls: the map's class: whose protocol, or whose policy.
    """

    _FLAGS: Final = {
        Mode.WAIT: netbsd.UVM_KMF_WAITVA,
        Mode.CANFAIL: netbsd.UVM_KMF_CANFAIL,
        Mode.NOWAIT: netbsd.UVM_KMF_NOWAIT | netbsd.UVM_KMF_TRYLOCK,
    }

    def __init__(
        self,
        k: Kernel,
        pages: int,
        *,
        version: str = "6",
        intrsafe: bool = False,
        cls: type[netbsd.VmMap] = netbsd.VmMap,
    ) -> None:
        self.map = netbsd.submap(k, pages, version=version, intrsafe=intrsafe, cls=cls)
        unchecked(self.map)

    def queues(self) -> Sequence[KernelObject]:
        """The map's condition variable."""
        held = self.map.lock
        assert isinstance(held, netbsd.VmMapLock | netbsd.IntrsafeMapLock)
        return [held.cv]

    def lock(self) -> KernelObject:
        """The map's lock."""
        held = self.map.lock
        return held.rw if isinstance(held, netbsd.VmMapLock) else held.mutex  # type: ignore[attr-defined]

    def gaps(self) -> tuple[int, int, int]:
        """See Space."""
        return _gaps(self.map._entries, self.map.min_offset, self.map.max_offset)  # noqa: SLF001 - an onlooker's look

    async def take(self, client: int, pages: int, mode: Mode) -> int:  # noqa: ARG002 - see Space
        """See Space."""
        return await netbsd.uvm_km_alloc(self.map, pages * PAGE, 0, netbsd.UVM_KMF_VAONLY | self._FLAGS[mode])

    async def give(self, client: int, taken: int, pages: int) -> None:  # noqa: ARG002 - see Space
        """See Space."""
        await netbsd.uvm_km_free(self.map, taken, pages * PAGE, netbsd.UVM_KMF_VAONLY)


class FreeBSDSpace:
    """A kernel submap of FreeBSD's, such as exec_map and pipe_map were: kmap_alloc_wait. All its callers wait.

    Args:
        k: the kernel.
        pages: how large it is.
        version: "13" or "2013".
        cls: the map's class: whose protocol, or whose policy; by default that of the version.
    """

    def __init__(self, k: Kernel, pages: int, *, version: str = "13", cls: type[freebsd.VmMap] | None = None) -> None:
        self.map = freebsd.exec_map(k, pages, version=version, cls=cls)
        unchecked(self.map)

    def queues(self) -> Sequence[KernelObject]:
        """The channel of the map."""
        return [self.map.lock.root]

    def lock(self) -> KernelObject:
        """The map's lock."""
        held = self.map.lock
        assert isinstance(held, UserMapLock)
        return held.sx

    def gaps(self) -> tuple[int, int, int]:
        """See Space."""
        return _gaps(self.map._entries, self.map.min_offset, self.map.max_offset)  # noqa: SLF001 - an onlooker's look

    async def take(self, client: int, pages: int, mode: Mode) -> int:  # noqa: ARG002 - see Space
        """See Space."""
        if mode is not Mode.WAIT:
            raise UsageError(f"FreeBSDSpace: kmap_alloc_wait always waits; a workload for it has Mode.WAIT, not {mode}")
        return await freebsd.kmap_alloc_wait(self.map, pages * PAGE)

    async def give(self, client: int, taken: int, pages: int) -> None:  # noqa: ARG002 - see Space
        """See Space."""
        await freebsd.kmap_free_wakeup(self.map, taken, pages * PAGE)


class FreeBSDPool:
    """The ranges that FreeBSD keeps for the arguments of execve, a slot for each CPU and a list for the rest.

    Whatever is asked for is one range.

    Args:
        k: the kernel.
        pages: how many all ranges together have.
        cpus: how many slots.
        each: pages of a range.
    """

    def __init__(self, k: Kernel, pages: int, *, cpus: int, each: int) -> None:
        self.map = freebsd.exec_map(k, pages)
        self.cpus = cpus
        self.each = each
        self.pool = freebsd.ExecArgs(k, self.map, cpus=cpus, entries=pages // each, pages=each)
        self.out = 0

    def queues(self) -> Sequence[KernelObject]:
        """The channel of the list."""
        return [self.pool.channel]

    def lock(self) -> KernelObject:
        """The mutex of the list."""
        return self.pool.mtx

    def gaps(self) -> tuple[int, int, int]:
        """Idle ranges, as pages: any of them serves any request, so they are no fragments."""
        idle = (len(self.pool.ranges) - self.out) * self.each
        return idle, int(idle > 0), idle

    async def take(self, client: int, pages: int, mode: Mode) -> int:
        """See Space; the range's number, from 1."""
        if mode is not Mode.WAIT or pages > self.each:
            raise UsageError(
                f"FreeBSDPool: a request for {pages} pages, {mode}: it has ranges of {self.each}, to wait for"
            )
        found = await freebsd.exec_alloc_args_kva(self.pool, client % self.cpus)
        self.out += 1
        return found.number + 1

    async def give(self, client: int, taken: int, pages: int) -> None:  # noqa: ARG002 - see Space
        """See Space."""
        self.out -= 1
        await freebsd.exec_free_args_kva(self.pool, self.pool.ranges[taken - 1], client % self.cpus)


def _nothing() -> None:
    """Nothing to check."""


def unchecked(vm_map: netbsd.VmMap | freebsd.VmMap) -> None:
    """A simulation does not look at all invariants of the map at each release of its lock: hunts do that."""
    held: Any = vm_map.lock
    held.on_release = _nothing


def drive(k: MachineKernel, space: Space, workload: Workload, seed: int, measures: Measures) -> None:
    """While the world is built: make the threads of a workload, and let `measures` watch.

    One device spawns each client when it begins; requests note what becomes of them.
    """
    measures.watch(gauge=space, queues=space.queues(), lock=space.lock())
    clients = sorted(enumerate(workload.plan(seed)), key=lambda pair: (pair[1].begin, pair[0]))

    async def arrivals() -> None:
        for number, client in clients:
            if client.begin > k.now:
                await k.delay(client.begin - k.now)
            body = handler if client.interrupt else requests
            k.spawn(body, number, client, name=client.name, priority=client.priority, interrupt=client.interrupt)

    async def requests(number: int, client: Client) -> None:
        for request in client.requests:
            if request.pause:
                await k.delay(request.pause)
            taken = await ask(number, request)
            if taken:
                await keep(number, request, taken)
                k.record(gave=request.pages)

    async def handler(number: int, client: Client) -> None:
        for request in client.requests:
            taken = await ask(number, request)
            if taken:
                k.spawn(keep, number, request, taken, name=f"{client.name}.done")

    async def ask(number: int, request: Request) -> int:
        k.record(asks=request.pages)
        taken = await space.take(number, request.pages, request.mode)
        if taken:
            k.record(got=request.pages)
        else:
            k.record(failed=request.mode.value)
        return taken

    async def keep(number: int, request: Request, taken: int) -> None:
        if request.work:
            await compute(k, request.work)
        if request.hold:
            await k.delay(request.hold)
        await space.give(number, taken, request.pages)

    k.device(arrivals, name="arrivals", daemon=False)
