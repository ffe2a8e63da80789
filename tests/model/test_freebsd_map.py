"""FreeBSD's map against a plain sorted list of ranges: one thread, any sequence of calls, everything compared after each.

The list is searched place by place and merged by the rules as they are documented; it shares no code with the map. All
places and sizes in it are units of 256 KiB, so that a superpage is eight of them.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from hypothesis import assume, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from stressvm.conform.lone import LoneThread
from stressvm.vm import freebsd

UNIT = 1 << 18
SUPER = freebsd.NBPDR // UNIT
SPAN = 40
#: One past the highest unit that there is: there, sums wrap.
TOP = 1 << 46
OK, INVALID, NO_SPACE, BAD = (
    freebsd.KERN_SUCCESS,
    freebsd.KERN_INVALID_ADDRESS,
    freebsd.KERN_NO_SPACE,
    freebsd.KERN_INVALID_ARGUMENT,
)


@dataclass(frozen=True, slots=True)
class Like:
    """What two neighbours must have in common to be one entry; one with an object of its own is like no other."""

    prot: int = freebsd.VM_PROT_RW
    max_prot: int = freebsd.VM_PROT_ALL
    cow: int = 0
    tag: int = 0

    @property
    def inherit(self) -> int:
        return freebsd.VM_INHERIT_SHARE if self.cow & freebsd.MAP_INHERIT_SHARE else freebsd.VM_INHERIT_COPY


@dataclass(slots=True)
class Plain:
    """A map as a sorted list of (start, end, attributes)."""

    low: int
    high: int
    ranges: list[tuple[int, int, Like]] = field(default_factory=list)

    def free(self, start: int, length: int) -> bool:
        inside = self.low <= start and start + length <= self.high
        return inside and not any(one < start + length and start < other for one, other, _ in self.ranges)

    def first_fit(self, hint: int, length: int) -> int | None:
        """The lowest place at or above the hint, by trying them all."""
        return next((at for at in range(max(hint, self.low), self.high) if self.free(at, length)), None)

    def insert(self, start: int, length: int, like: Like) -> int:
        if length <= 0 or start < self.low or start + length > self.high:
            return INVALID
        if not self.free(start, length):
            return NO_SPACE
        if like.cow & freebsd.MAP_CREATE_GUARD and (like.tag or like.max_prot):
            return BAD
        end = start + length
        touching = [one for one in self.ranges if one[1] == start or one[0] == end]
        for other in [one for one in touching if not like.tag and one[2] == like]:
            self.ranges.remove(other)
            start, end = min(start, other[0]), max(end, other[1])
        self.ranges.append((start, end, like))
        self.ranges.sort(key=lambda one: one[0])
        return OK

    def remove(self, start: int, end: int) -> None:
        """Take a range out, whatever is in it."""
        if start >= end:
            return
        left: list[tuple[int, int, Like]] = []
        for one, other, like in self.ranges:
            left.extend((a, b, like) for a, b in ((one, min(other, start)), (max(one, end), other)) if a < b)
        self.ranges = left

    def clamped(self, start: int, length: int) -> tuple[int, int]:
        end = min((start + length) % TOP, self.high)
        return min(max(start, self.low), end), end


@dataclass(frozen=True, slots=True)
class Want:
    """A strategy: the addresses that are right are `rest` modulo `align`; `any_else`: without one, any will do."""

    align: int = 1
    rest: int = 0
    any_else: bool = False

    def up(self, at: int) -> int:
        return at + (self.rest - at) % self.align


def find_13(plain: Plain, hint: int, length: int, bound: int, want: Want) -> tuple[int, int]:
    """The lowest place that is right, if it is within the bound."""
    for at in range(max(hint, plain.low), plain.high):
        if want.up(at) == at and plain.free(at, length) and (not bound or at + length <= bound):
            return OK, at
    return find_13(plain, hint, length, bound, Want()) if want.any_else else (NO_SPACE, 0)


def find_2013(plain: Plain, hint: int, length: int, bound: int, want: Want) -> tuple[int, int]:
    """Places that fit, each moved to one that is right, until that is free; only the former is held to the bound."""
    start = hint
    while True:
        found = plain.first_fit(start, length)
        if found is None or (bound and found + length > bound):
            return find_2013(plain, hint, length, bound, Want()) if want.any_else else (NO_SPACE, 0)
        start = want.up(found)
        if start + length > plain.high:
            return INVALID, 0
        if plain.free(start, length):
            return OK, start


MODELS = {"13": find_13, "2013": find_2013}
KINDS = [
    ("13", freebsd.Search.FIRST_FIT, freebsd.MapKind.SYSTEM),
    ("13", freebsd.Search.SPLAY, freebsd.MapKind.SYSTEM),
    ("2013", freebsd.Search.FIRST_FIT, freebsd.MapKind.SYSTEM),
    ("13", freebsd.Search.FIRST_FIT, freebsd.MapKind.USER),
    ("13", freebsd.Search.SPLAY, freebsd.MapKind.SUBMAP),
    ("2013", freebsd.Search.FIRST_FIT, freebsd.MapKind.USER),
]
lengths = st.sampled_from([1, 1, 1, 2, 2, 3, 4, 7, 8, 9, 12, 17])
places = st.integers(-3, SPAN + 3)
likes = st.sampled_from(
    [
        Like(),
        Like(),
        Like(),
        Like(prot=freebsd.VM_PROT_READ),
        Like(max_prot=freebsd.VM_PROT_RW),
        Like(cow=freebsd.MAP_INHERIT_SHARE),
        Like(cow=freebsd.MAP_DISABLE_COREDUMP),
        Like(prot=0, max_prot=0, cow=freebsd.MAP_CREATE_GUARD),
        Like(cow=freebsd.MAP_CREATE_GUARD),
        Like(tag=1),
    ]
)


class AgainstPlainList(RuleBasedStateMachine):
    """One map and its plain list."""

    @initialize(low=st.sampled_from([0, 8, 0x4003, TOP - SPAN - 1]), kind=st.sampled_from(KINDS))
    def begin(self, low: int, kind: tuple[str, freebsd.Search, freebsd.MapKind]) -> None:
        version, self.search, self.kind = kind
        self.lone = LoneThread()
        cls = freebsd.VERSIONS[version]
        self.map = cls(self.lone.k, low * UNIT, (low + SPAN) * UNIT, kind=self.kind, search=self.search)
        self.lone.start()
        self.plain = Plain(low, low + SPAN)
        self.tags: dict[int, freebsd.VmObject] = {}

    def teardown(self) -> None:
        if hasattr(self, "lone"):
            self.lone.close()

    def made(self, like: Like) -> tuple[freebsd.VmObject | None, Like]:
        """An object of its own for a mapping that is to have one."""
        if not like.tag:
            return None, like
        tag = len(self.tags) + 1
        self.tags[tag] = freebsd.VmObject(1)
        return self.tags[tag], Like(like.prot, like.max_prot, like.cow, tag)

    def locked(self, operation: Any) -> Any:
        self.lone.now(self.map.lock.lock())
        result = operation()
        self.lone.now(self.map.lock.unlock())
        return result

    @rule(at=places, length=st.integers(0, 12), like=likes)
    def vm_map_insert(self, at: int, length: int, like: Like) -> None:
        start = self.plain.low + at
        assume(0 <= start < TOP)
        assume(start + length < TOP)
        obj, like = self.made(like)
        args = (obj, 0, start * UNIT, (start + length) * UNIT, like.prot, like.max_prot, like.cow)
        got = self.locked(lambda: freebsd.vm_map_insert(self.map, *args))
        assert got == self.plain.insert(start, length, like)

    @rule(at=places, length=st.integers(0, 12), like=likes, excl=st.booleans())
    def vm_map_fixed(self, *, at: int, length: int, like: Like, excl: bool) -> None:
        start = self.plain.low + at
        assume(0 <= start < TOP)
        obj, like = self.made(like)
        cow = like.cow | (freebsd.MAP_CHECK_EXCL if excl else 0)
        got = self.lone.now(
            freebsd.vm_map_fixed(self.map, obj, 0, start * UNIT, length * UNIT, like.prot, like.max_prot, cow)
        )
        start, end = self.plain.clamped(start, length)
        if not excl:
            self.plain.remove(start, end)
        assert got == self.plain.insert(start, end - start, like)

    @rule(at=places, length=st.integers(0, SPAN))
    def vm_map_remove(self, at: int, length: int) -> None:
        start = self.plain.low + at
        assume(0 <= start < TOP)
        assume(start + length < TOP)
        assert self.lone.now(freebsd.vm_map_remove(self.map, start * UNIT, (start + length) * UNIT)) == OK
        self.plain.remove(start, start + length)

    @rule(data=st.data())
    def remove_a_part(self, data: st.DataObject) -> None:
        assume(self.plain.ranges)
        start, end, _ = data.draw(st.sampled_from(self.plain.ranges))
        start = data.draw(st.integers(start, end - 1))
        end = data.draw(st.integers(start + 1, end))
        self.lone.now(freebsd.vm_map_remove(self.map, start * UNIT, end * UNIT))
        self.plain.remove(start, end)

    @rule(at=places, length=lengths)
    def vm_map_findspace(self, at: int, length: int) -> None:
        start = self.plain.low + at
        assume(0 <= start < TOP)
        place = self.plain.first_fit(start, length)
        got = self.locked(lambda: freebsd.vm_map_findspace(self.map, start * UNIT, length * UNIT))
        if got is None and place is not None and self.search is freebsd.Search.SPLAY:
            self.assert_may_be_missed(max(start, self.plain.low), place)
        else:
            assert got == (place * UNIT if place is not None else None)

    def assert_may_be_missed(self, start: int, place: int) -> None:
        """The hint is free, only one entry is above it, and the room is after that."""
        assert self.plain.free(start, 1)
        above = [one for one in self.plain.ranges if one[0] >= start]
        assert [one[1] for one in above] == [place]

    @rule(
        at=places,
        length=lengths,
        bound=st.one_of(st.just(0), st.integers(1, SPAN + 2)),
        log2=st.sampled_from([None, None, 12, 18, 19, 20, 21, 22]),
        like=likes,
    )
    def vm_map_find(self, *, at: int, length: int, bound: int, log2: int | None, like: Like) -> None:
        """ANY or ALIGNED."""
        find_space = freebsd.VMFS_ANY_SPACE if log2 is None else freebsd.VMFS_ALIGNED_SPACE(log2)
        want = Want() if log2 is None else Want(max((1 << log2) // UNIT, 1))
        obj, like = self.made(like)
        self.find(at, length, bound, find_space, want, obj, like)

    @rule(
        at=places,
        length=lengths,
        bound=st.one_of(st.just(0), st.integers(1, SPAN + 2)),
        offset=st.integers(0, 9),
        color=st.sampled_from([None, 0, 1, 5]),
        optimal=st.booleans(),
    )
    def find_for_superpages(
        self, *, at: int, length: int, bound: int, offset: int, color: int | None, optimal: bool
    ) -> None:
        """SUPER or OPTIMAL: as far from a superpage as the object's page, if a whole one of those is mapped."""
        rest = (offset + (color or 0)) % SUPER
        coloured = color is not None or not optimal
        want = Want(any_else=optimal)
        if coloured and length - -rest % SUPER >= SUPER:
            want = Want(SUPER, rest, optimal)
        obj, like = self.made(Like(tag=1))
        assert obj is not None
        obj.pg_color = color * UNIT // freebsd.PAGE_SIZE if color is not None else None
        find_space = freebsd.VMFS_OPTIMAL_SPACE if optimal else freebsd.VMFS_SUPER_SPACE
        self.find(at, length, bound, find_space, want, obj, like, offset)

    def find(
        self,
        at: int,
        length: int,
        bound: int,
        find_space: int,
        want: Want,
        obj: freebsd.VmObject | None,
        like: Like,
        offset: int = 0,
    ) -> None:
        hint = self.plain.low + at
        assume(0 <= hint < TOP)
        assume(hint >= 0)
        assume(not like.cow & freebsd.MAP_CREATE_GUARD or not like.max_prot)
        assume(self.search is freebsd.Search.FIRST_FIT)
        bound = self.plain.low + bound if bound else 0
        args = (hint * UNIT, length * UNIT, bound * UNIT, find_space, like.prot, like.max_prot, like.cow)
        rc, addr = self.lone.now(freebsd.vm_map_find(self.map, obj, offset * UNIT, *args))
        expected, place = MODELS[self.map.version](self.plain, hint, length, bound, want)
        assert (rc, addr) == (expected, place * UNIT)
        if not rc:
            assert self.plain.insert(place, length, like) == OK

    @rule(at=places, length=st.integers(0, 12))
    def find_no_space(self, at: int, length: int) -> None:
        """NO: there or nowhere."""
        start = self.plain.low + at
        assume(0 <= start < TOP)
        found = freebsd.vm_map_find(self.map, None, 0, start * UNIT, length * UNIT, find_space=freebsd.VMFS_NO_SPACE)
        rc, addr = self.lone.now(found)
        assert rc == self.plain.insert(start, length, Like())
        assert addr == (0 if rc else start * UNIT)

    @rule(at=places, write=st.booleans())
    def lookup(self, *, at: int, write: bool) -> None:
        """With either hold of the lock; neither moves the timestamp by itself."""
        place = self.plain.low + at
        assume(0 <= place < TOP)
        lock = self.map.lock
        self.lone.now(lock.lock() if write else lock.lock_read())
        timestamp = lock.timestamp.peek()
        found, entry = self.lone.now(freebsd.vm_map_lookup_entry(self.map, place * UNIT))
        assert lock.timestamp.peek() == timestamp
        self.lone.now(self.map.lock.unlock() if write else lock.unlock_read())
        before = [one for one in self.plain.ranges if one[0] <= place]
        assert found == bool(before and place < before[-1][1])
        if self.kind is freebsd.MapKind.SYSTEM:
            assert (entry.start if entry is not None else None) == (before[-1][0] * UNIT if before else None)

    @invariant()
    def same(self) -> None:
        if not hasattr(self, "plain"):
            return
        self.map.check()
        got = []
        for entry in self.map.entries:
            assert not entry.start % UNIT
            assert not entry.end % UNIT
            cow = freebsd.MAP_INHERIT_SHARE if entry.inheritance == freebsd.VM_INHERIT_SHARE else 0
            cow |= freebsd.MAP_CREATE_GUARD if entry.guard else 0
            cow |= freebsd.MAP_DISABLE_COREDUMP if entry.eflags & freebsd.MAP_ENTRY_NOCOREDUMP else 0
            tag = next((tag for tag, obj in self.tags.items() if obj is entry.object), 0)
            like = Like(entry.protection, entry.max_protection, cow, tag)
            got.append((entry.start // UNIT, entry.end // UNIT, like))
        # Elsewhere a clip makes an object, which may keep neighbours apart that are alike in all that can be seen.
        exact = self.kind is freebsd.MapKind.SYSTEM
        assert (got if exact else joined(got)) == (self.plain.ranges if exact else joined(self.plain.ranges))
        taken = [one for one in self.plain.ranges if not one[2].cow & freebsd.MAP_CREATE_GUARD]
        assert self.map.size == sum(end - start for start, end, _ in taken) * UNIT
        charged = sum(end - start for start, end, like in taken if not like.tag and like.prot & freebsd.VM_PROT_WRITE)
        reserved = freebsd.ucred(self.lone.k).reserved
        # An object's charge is given back with its last reference.
        assert reserved == charged * UNIT if exact else reserved >= charged * UNIT
        if not self.plain.ranges:
            assert reserved == 0
        users = [entry.object for entry in self.map.entries if entry.object is not None]
        assert all(obj.ref_count == users.count(obj) for obj in users)


def joined(ranges: list[tuple[int, int, Like]]) -> list[tuple[int, int, Like]]:
    """Neighbours that are alike as one."""
    result: list[tuple[int, int, Like]] = []
    for start, end, like in ranges:
        if result and result[-1][1] == start and result[-1][2] == like:
            start = result.pop()[0]  # noqa: PLW2901 - the joined range begins there
        result.append((start, end, like))
    return result


TestAgainstPlainList = AgainstPlainList.TestCase
TestAgainstPlainList.settings = settings(max_examples=200, stateful_step_count=40)
