"""Sequential specifications of map calls: what maps promise when one call is made after the other.

A map is nothing but the sorted list of what is taken. Allocating takes the lowest place that fits, at the hint or above,
aligned as asked for; it fails only if there is none, whether it was told not to wait (NOWAIT), that it may fail (CANFAIL),
or nothing; freeing frees whatever of the range is taken. Calls that run at once have to behave as if they were made one
after the other: each search and the insertion that follows it are done under the map's lock, so in the kernels they do.
Histories of calls are judged against these (linearizability): of an address that was never the lowest place, a failure
although there always was room, and two owners of one address, each is told as what it is.

What a specification does not know it refuses with a `UsageError`, so that nothing is judged by rules that are not the
map's: physical memory, page colours, maps that take their entries out of themselves, searches from the top, ASLR.

Source: uvm_map(9), uvm_km(9), vm_map_find(9), vm_map_findspace(9); sys/vm/vm_kern.c, kmap_alloc_wait.
"""

from __future__ import annotations

import inspect
from functools import cache
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple, Protocol

from stressvm.kernel.errors import UsageError
from stressvm.vm import freebsd, netbsd

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

#: Ranges that are taken, in bytes, half open; sorted, and no two of them touch.
Taken = tuple[tuple[int, int], ...]


class CallLike(Protocol):
    """A call as a history has it: its name is that of the kernel's call, its arguments are those it was made with."""

    @property
    def name(self) -> str:
        """Of the operation."""

    @property
    def args(self) -> tuple[Any, ...]:
        """In order; the first is the map."""

    @property
    def kwargs(self) -> Mapping[str, Any]:
        """By name."""

    @property
    def result(self) -> Any:
        """What it returned."""

    @property
    def pending(self) -> bool:
        """It has not returned."""


class Request(NamedTuple):
    """What a call asks of a map, and what it got.

    Attributes:
        start: where the search begins; what is freed begins there.
        size: bytes.
        align: a power of two, at least 1.
        fixed: there or nowhere.
        bound: it ends there or below.
        frees: it frees.
        got: the address; None for a failure.
        excused: a failure for another reason than that there is no room.
        waits: it waits for room, and so does not fail for want of it.
    """

    start: int
    size: int
    align: int = 1
    fixed: bool = False
    bound: int = 0
    frees: bool = False
    got: int | None = None
    excused: bool = False
    waits: bool = False


# ---------------------------------------------------------------- what is taken


def first_fit(taken: Taken, low: int, high: int, request: Request) -> int | None:
    """The lowest place in a map from `low` up to `high`; None if there is none."""
    if request.fixed:
        return request.start if _free(taken, low, high, request.start, request.size) else None
    for begin in (max(request.start, low), *(end for _, end in taken if end > request.start)):
        at = begin + -begin % request.align
        if at + request.size <= (request.bound or high) and _free(taken, low, high, at, request.size):
            return at
    return None


def _free(taken: Taken, low: int, high: int, at: int, size: int) -> bool:
    if at < low or at + size > high:
        return False
    return not any(start < at + size and at < end for start, end in taken)


def joined(ranges: Sequence[tuple[int, int]]) -> Taken:
    """Ranges in order, those that touch or overlap made one."""
    found: list[tuple[int, int]] = []
    for start, end in sorted(ranges):
        if found and found[-1][1] >= start:
            found[-1] = (found[-1][0], max(end, found[-1][1]))
        else:
            found.append((start, end))
    return tuple(found)


def without(taken: Taken, start: int, end: int) -> Taken:
    """What is left of it outside a range."""
    parts = [part for one, other in taken for part in ((one, min(other, start)), (max(one, end), other))]
    return tuple((one, other) for one, other in parts if one < other)


# ---------------------------------------------------------------- specifications


class _MapSpecification:
    """What both kernels share. Make it when the world is built, and the maps are filled.

    Args:
        maps: those that calls will be about.

    Raises:
        UsageError: one of them does what no specification here knows.
    """

    #: The calls, by name: the function, and what reads a call of it.
    CALLS: ClassVar[Mapping[str, tuple[Callable[..., Any], Callable[[dict[str, Any], Any], Request]]]]

    def __init__(self, *maps: Any) -> None:
        if not maps:
            raise UsageError(f"{type(self).__name__}(): name the maps that calls will be about")
        for vm_map in maps:
            self.check(vm_map)
        #: By map: its range, and what is taken at the beginning.
        self.maps = {
            vm_map: (
                vm_map.min_offset,
                vm_map.max_offset,
                joined([(entry.start, entry.end) for entry in vm_map.entries]),
            )
            for vm_map in maps
        }
        self.requests: dict[CallLike, Request] = {}

    def check(self, vm_map: Any) -> None:
        """Refuse a map that is not known here."""
        raise NotImplementedError

    # ------------------------------------------------------------ the model

    def initial(self, calls: Sequence[CallLike], /) -> Taken:
        """What was taken at the beginning."""
        return self.maps[self.map_of(calls[0])][2] if calls else ()

    def partition(self, calls: Sequence[Any], /) -> list[list[Any]]:
        """Map by map."""
        parts: dict[Any, list[Any]] = {}
        for call in calls:
            parts.setdefault(self.map_of(call), []).append(call)
        return list(parts.values())

    def step(self, state: Taken, call: CallLike, /) -> tuple[bool, Taken]:
        """May it return what it did? And what is taken then."""
        request = self.request(call)
        if request.frees:
            return True, without(state, request.start, request.start + request.size)
        place = self.place(state, call)
        if not call.pending and request.got is None:
            return request.excused or (place is None and not request.waits), state
        if place is None or (not call.pending and request.got != place):
            return False, state
        return True, joined([*state, (place, place + request.size)])

    def why(self, state: Taken, call: CallLike, /) -> tuple[str, str]:
        """What is wrong: "overlap", "not first fit", "failed with room" or "failed although it waits"."""
        request = self.request(call)
        vm_map = self.map_of(call)
        place = self.place(state, call)
        if request.got is None and place is None:
            return "failed although it waits", f"{call.name} was to wait for addresses in {vm_map.name}"
        if request.got is None:
            return "failed with room", f"{vm_map.name} has room for {request.size:#x} bytes at {_hex(place)}"
        end = request.got + request.size
        owned = [f"{start:#x}-{stop:#x}" for start, stop in state if start < end and request.got < stop]
        if owned:
            return "overlap", f"of {request.got:#x}-{end:#x} in {vm_map.name}, {', '.join(owned)} is taken"
        return "not first fit", f"the first fit for {request.size:#x} bytes in {vm_map.name} is {_hex(place)}"

    # ------------------------------------------------------------ within

    def map_of(self, call: CallLike) -> Any:
        """The map that a call is about."""
        vm_map = call.args[0] if call.args else call.kwargs.get("vm_map")
        if vm_map not in self.maps:
            raise UsageError(f"{call.name}: {vm_map!r} is no map that the specification was made for")
        return vm_map

    def place(self, state: Taken, call: CallLike) -> int | None:
        """Where it should get its addresses."""
        low, high, _ = self.maps[self.map_of(call)]
        return first_fit(state, low, high, self.request(call))

    def request(self, call: CallLike) -> Request:
        """What it asks for."""
        try:
            return self.requests[call]
        except KeyError:
            pass
        if call.name not in self.CALLS:
            known = ", ".join(self.CALLS)
            raise UsageError(f"{call.name}: the specification knows {known}; record those only")
        function, read = self.CALLS[call.name]
        bound = _signature(function).bind(*call.args, **call.kwargs)
        bound.apply_defaults()
        request = self.requests[call] = read(bound.arguments, None if call.pending else call.result)
        return request


@cache
def _signature(function: Callable[..., Any]) -> inspect.Signature:
    return inspect.signature(function)


def _hex(place: int | None) -> str:
    return "nowhere" if place is None else f"{place:#x}"


# ---------------------------------------------------------------- NetBSD


def _round(size: int) -> int:
    """To whole pages, which are of one size on both."""
    return size + -size % netbsd.PAGE_SIZE


def _align(align: int) -> int:
    return max(align, 1)


def _km_alloc(args: dict[str, Any], result: int | None) -> Request:
    """uvm_km_alloc: 0 is a failure."""
    flags = args["flags"]
    if flags & netbsd.UVM_KMF_TYPEMASK != netbsd.UVM_KMF_VAONLY or flags & netbsd.UVM_KMF_COLORMATCH:
        raise UsageError(f"uvm_km_alloc(flags={flags:#x}): the specification is about VAONLY, without COLORMATCH")
    return Request(
        args["vm_map"].min_offset,
        _round(args["size"]),
        _align(args["align"]),
        got=result or None,
        excused=bool(flags & netbsd.UVM_KMF_TRYLOCK),
        waits=bool(flags & netbsd.UVM_KMF_WAITVA),
    )


def _km_free(args: dict[str, Any], _result: None) -> Request:
    """uvm_km_free."""
    if args["flags"] & netbsd.UVM_KMF_TYPEMASK != netbsd.UVM_KMF_VAONLY:
        raise UsageError(f"uvm_km_free(flags={args['flags']:#x}): the specification is about VAONLY")
    return Request(args["addr"], _round(args["size"]), frees=True)


def _map(args: dict[str, Any], result: tuple[int, int] | None) -> Request:
    """uvm_map: ENOMEM is the failure that says there is no room."""
    flags = args["flags"]
    if flags & netbsd.UVM_FLAG_COLORMATCH:
        raise UsageError("uvm_map: the specification does not know COLORMATCH")
    error, va = result or (0, 0)
    return Request(
        args["addr"],
        args["size"],
        _align(args["align"]),
        fixed=bool(flags & netbsd.UVM_FLAG_FIXED),
        got=None if error or result is None else va,
        excused=bool(error) and error != netbsd.ENOMEM,
        waits=bool(flags & netbsd.UVM_FLAG_WAITVA),
    )


def _unmap(args: dict[str, Any], _result: None) -> Request:
    """uvm_unmap."""
    return Request(args["start"], args["end"] - args["start"], frees=True)


class NetBSDSpecification(_MapSpecification):
    """uvm_map, uvm_unmap, uvm_km_alloc and uvm_km_free of NetBSD's maps, 6 and 5.2: addresses alone (UVM_KMF_VAONLY).

    A call with TRYLOCK may always fail: somebody may have the lock. (Were it told apart from calls that wait, its failure
    would have to come while the lock is held.) Anybody else fails only if there is no room.
    """

    def check(self, vm_map: netbsd.VmMap) -> None:
        """See the base."""
        if vm_map.topdown:
            raise UsageError(f"{vm_map!r} is searched from the top: there the kernel promises no first fit")
        if vm_map.kmapents is not None or vm_map.vacache is not None:
            raise UsageError(f"{vm_map!r} takes addresses for itself (kmapent, vacache): no specification knows which")
        if vm_map.machine.prefer > netbsd.PAGE_SIZE:
            raise UsageError(f"{vm_map!r} is on a machine with PMAP_PREFER: no specification knows its addresses")

    CALLS: ClassVar = {
        "uvm_km_alloc": (netbsd.uvm_km_alloc, _km_alloc),
        "uvm_km_free": (netbsd.uvm_km_free, _km_free),
        "uvm_map": (netbsd.uvm_map, _map),
        "uvm_unmap": (netbsd.uvm_unmap, _unmap),
    }


# ---------------------------------------------------------------- FreeBSD


def _alloc_wait(args: dict[str, Any], result: int | None) -> Request:
    """kmap_alloc_wait: 0 for what the map is too small for, and where there is no swap to be had."""
    vm_map = args["vm_map"]
    size = _round(args["size"])
    excused = vm_map.max_offset - vm_map.min_offset < size or freebsd.ucred(vm_map.k).limit is not None
    return Request(vm_map.min_offset, size, got=result or None, excused=excused)


def _free_wakeup(args: dict[str, Any], _result: None) -> Request:
    """kmap_free_wakeup."""
    start = args["addr"] - args["addr"] % freebsd.PAGE_SIZE
    return Request(start, _round(args["addr"] + args["size"]) - start, frees=True)


def _find(args: dict[str, Any], result: tuple[int, int] | None) -> Request:
    """vm_map_find: KERN_NO_SPACE is the failure that says there is no room."""
    space = args["find_space"]
    if space not in (freebsd.VMFS_ANY_SPACE, freebsd.VMFS_NO_SPACE) or args["cow"]:
        raise UsageError("vm_map_find: the specification knows VMFS_ANY_SPACE and VMFS_NO_SPACE, and no flags (cow)")
    error, addr = result or (0, 0)
    return Request(
        args["addr"],
        args["length"],
        fixed=space == freebsd.VMFS_NO_SPACE,
        bound=args["max_addr"] if space == freebsd.VMFS_ANY_SPACE else 0,
        got=None if error or result is None else addr,
        excused=bool(error) and error != freebsd.KERN_NO_SPACE,
    )


def _remove(args: dict[str, Any], _result: Any) -> Request:
    """vm_map_remove."""
    return Request(args["start"], args["end"] - args["start"], frees=True)


class FreeBSDSpecification(_MapSpecification):
    """kmap_alloc_wait, kmap_free_wakeup, vm_map_find and vm_map_remove of FreeBSD's maps, 13 and 2013.

    What vm_map_findspace(9) promises is the first fit. A map whose search misses the last gap (`Search.SPLAY`) does not keep
    that.
    """

    def check(self, vm_map: freebsd.VmMap) -> None:
        """See the base."""
        if vm_map.flags & freebsd.MAP_ASLR or freebsd.sysctl(vm_map.k).cluster_anon:
            raise UsageError(f"{vm_map!r} puts mappings where it likes (ASLR, vm.cluster_anon): there is no first fit")

    CALLS: ClassVar = {
        "kmap_alloc_wait": (freebsd.kmap_alloc_wait, _alloc_wait),
        "kmap_free_wakeup": (freebsd.kmap_free_wakeup, _free_wakeup),
        "vm_map_find": (freebsd.vm_map_find, _find),
        "vm_map_remove": (freebsd.vm_map_remove, _remove),
    }
