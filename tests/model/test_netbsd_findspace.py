"""uvm_map_findspace without a tree against the kernel's own steps on trees of every shape.

`Steps` walks as the C code does: the gap of the hint, a binary tree of entries annotated with the largest gap of each
subtree, and the list. It shares no code with the map. The trees are not balanced: each shape that a red-black tree can
have is a shape that these can have. Addresses have eight bits, so that searches wrap around often.
"""

from __future__ import annotations

import random
from dataclasses import dataclass
from typing import Final

import pytest

from stressvm.vm.entry import Entry
from stressvm.vm.netbsd import findspace
from stressvm.vm.netbsd.findspace import ABOVE_HINT, BELOW_HINT, CANDIDATE_ABOVE, CANDIDATE_BELOW, Found
from stressvm.vm.skiplist import EntryList

BITS: Final = 8
SIZE: Final = 1 << BITS
COUNT: Final = 12_000


class Fault(Exception):  # noqa: N818 - a jump, as the C code has them
    """The search ends: found, or nowhere."""


@dataclass(slots=True)
class Node:
    """A tree node: the position of its entry on the list."""

    at: int
    left: Node | None
    right: Node | None
    maxgap: int


class Steps:
    """One search, step by step. Entries are numbered from 0 on; -1 is the header."""

    def __init__(self, low: int, high: int, ranges: list[tuple[int, int]], dice: random.Random) -> None:
        self.low, self.high, self.ranges, self.dice = low, high, ranges, dice
        self.root = self.grow(0, len(ranges))

    def start(self, at: int) -> int:
        return self.ranges[at][0] if 0 <= at < len(self.ranges) else self.high

    def end(self, at: int) -> int:
        return self.ranges[at][1] if at >= 0 else self.low

    def next_start(self, at: int) -> int:
        return self.start(at + 1)

    def gap(self, at: int) -> int:
        return self.next_start(at) - self.end(at)

    def grow(self, first: int, stop: int) -> Node | None:
        """A tree of any shape."""
        if first == stop:
            return None
        at = self.dice.randrange(first, stop)
        left, right = self.grow(first, at), self.grow(at + 1, stop)
        return Node(at, left, right, max(self.gap(at), widest(left), widest(right)))

    def search(
        self, first_free: int, hint: int, length: int, align: int, *, topdown: bool, color: int | None = None
    ) -> Found:
        """uvm_map_findspace without FIXED. With a colour, `align` is how many there are, and pages have one byte."""
        self.hint, self.orig, self.length, self.align, self.topdown = hint, hint, length, align, topdown
        self.color = color
        self.first_free, self.kassert = first_free, ""
        try:
            entry = self.look()
        except Fault:
            return Found(None, self.kassert)
        self.claim(not topdown or self.hint <= self.orig, BELOW_HINT)
        self.claim(topdown or self.hint >= self.orig, ABOVE_HINT)
        assert self.end(entry) <= self.hint
        assert self.hint + length <= self.next_start(entry)
        return Found(self.hint, self.kassert)

    def claim(self, condition: bool, text: str) -> None:  # noqa: FBT001 - as KASSERT
        if not condition and not self.kassert:
            self.kassert = text

    def avail(self, at: int) -> bool:
        """uvm_map_space_avail: does it fit? Wrapping around ends the search."""
        if self.color is not None:
            self.colored(self.color)
        else:
            self.hint = (self.hint if self.topdown else self.hint + self.align - 1) & -self.align & (SIZE - 1)
        end = (self.hint + self.length) % SIZE
        if end < self.hint:
            raise Fault
        return self.next_start(at) >= end and self.hint >= self.end(at)

    def colored(self, color: int) -> None:
        """What COLORMATCH does in place of rounding."""
        has = self.hint & (self.align - 1)
        if has == color:
            return
        self.hint -= has
        if self.topdown:
            if color > has:
                self.hint -= self.align
        elif color < has:
            self.hint += self.align
        self.hint = (self.hint + color) % SIZE

    def at_gap(self, at: int) -> None:
        self.hint = (self.next_start(at) - self.length) % SIZE if self.topdown else self.end(at)

    def look(self) -> int:
        """Steps 1 to 4; the entry found."""
        self.hint = max(self.hint, self.low)
        if self.hint > self.high:
            raise Fault
        if self.hint == self.low:
            entry = self.first_free
        else:
            entry = max([at for at in range(len(self.ranges)) if self.start(at) <= self.hint], default=-1)
            if entry >= 0 and self.hint < self.end(entry):
                entry -= self.topdown
            elif self.avail(entry):
                return entry
            elif not self.topdown:
                if entry + 1 == len(self.ranges):
                    raise Fault
                return self.tree(entry + 1)
        self.at_gap(entry)
        if self.avail(entry):
            return entry
        return self.tree(entry)

    def tree(self, entry: int) -> int:
        """Steps 5 to 9."""
        length = self.length
        if self.root is None or self.root.maxgap < length:
            raise Fault
        node, prev = self.descend(self.root)
        at = node.at
        if self.start(at) < self.hint < self.next_start(at):
            if self.topdown:
                self.hint = min(self.hint, (self.next_start(at) - length) % SIZE)
            else:
                self.hint = max(self.hint, self.end(at))
            if self.avail(at):
                return at
            if self.gap(at) >= length:
                return self.list(entry)
        if prev is None:
            raise Fault
        if self.candidate(prev.at):
            return prev.at
        if self.gap(prev.at) >= length:
            return self.list(entry)
        last = self.inner(prev)
        return last.at if self.candidate(last.at) else self.list(entry)

    def descend(self, node: Node) -> tuple[Node, Node | None]:
        """The node where the descent ends, and the candidate."""
        prev: Node | None = None
        length = self.length
        while True:
            at, hint = node.at, self.hint
            child = node.left if self.topdown else node.right
            offers = self.gap(at) >= length or widest(child) >= length
            if self.topdown:
                if (
                    self.next_start(at) < (hint + length)
                    and (prev is None or self.end(at) > self.end(prev.at))
                    and offers
                ):
                    prev = node
            elif self.end(at) >= hint and (prev is None or self.end(at) < self.end(prev.at)) and offers:
                prev = node
            if self.next_start(at) < hint + length:
                child = node.right
            elif self.end(at) > hint:
                child = node.left
            elif self.gap(at) >= length:
                return node, prev
            if child is None or child.maxgap < length:
                return node, prev
            node = child

    def candidate(self, at: int) -> bool:
        if self.topdown:
            top = (self.next_start(at) - self.length) % SIZE
            self.claim(self.orig >= top or top > self.next_start(at), CANDIDATE_BELOW)
        else:
            self.claim(self.orig <= self.end(at), CANDIDATE_ABOVE)
        self.at_gap(at)
        return self.avail(at)

    def inner(self, prev: Node) -> Node:
        """Step 9: the first long gap on the far side of a candidate that has none itself."""
        node = prev.left if self.topdown else prev.right
        while True:
            assert node is not None
            assert node.maxgap >= self.length
            near, far = (node.right, node.left) if self.topdown else (node.left, node.right)
            if near is not None and near.maxgap >= self.length:
                node = near
            elif self.gap(node.at) >= self.length:
                return node
            else:
                node = far

    def list(self, entry: int) -> int:
        """Step 10."""
        while True:
            self.at_gap(entry)
            if self.avail(entry):
                return entry
            if self.topdown:
                if entry < 0:
                    raise Fault
                entry -= 1
            else:
                entry += 1
                if entry == len(self.ranges):
                    raise Fault


def widest(node: Node | None) -> int:
    return node.maxgap if node is not None else 0


@dataclass(slots=True)
class Map:
    """A random map with a first_free that it could have."""

    low: int
    high: int
    ranges: list[tuple[int, int]]
    first_free: int
    entries: EntryList[Entry]


def random_map(dice: random.Random) -> Map:
    low = dice.choice([0, 1, 5, dice.randrange(SIZE - 8)])
    high = min(dice.choice([SIZE - 1, SIZE - 1, SIZE - 2, low + dice.randrange(2, SIZE)]), SIZE - 1)
    cuts = sorted(dice.sample(range(low, high + 1), min(dice.randrange(0, 11) * 2, (high - low + 1) // 2 * 2)))
    ranges = list(zip(cuts[::2], cuts[1::2], strict=True))
    for at in range(len(ranges) - 1):
        if dice.random() < 0.3:
            ranges[at] = ranges[at][0], ranges[at + 1][0]
    if ranges and dice.random() < 0.4:
        ranges[0] = low, ranges[0][1]
    entries: EntryList[Entry] = EntryList(low, high)
    for start, end in ranges:
        entries.insert(Entry(start, end))
    touching = [-1]
    while touching[-1] + 1 < len(ranges) and ranges[touching[-1] + 1][0] == (
        ranges[touching[-1]][1] if touching[-1] >= 0 else low
    ):
        touching.append(touching[-1] + 1)
    return Map(low, high, ranges, dice.choice(touching), entries)


def ours(world: Map, hint: int, length: int, align: int, *, topdown: bool) -> Found:
    if topdown:
        first_free = list(world.entries)[world.first_free] if world.first_free >= 0 else None
        return findspace.top_down(world.entries, first_free, hint, length, align)
    return findspace.bottom_up(world.entries, hint, length, align)


@pytest.mark.parametrize("topdown", [True, False], ids=["top-down", "bottom-up"])
def test_the_answer_is_that_of_the_kernels_steps(
    topdown: bool,  # noqa: FBT001 - a column of the table
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """On every shape. Where shapes disagree the search has wrapped, and ours is one of their answers."""
    monkeypatch.setattr(findspace, "WORD", SIZE)
    dice = random.Random(1)
    disputed = found = failed = 0
    for _ in range(COUNT):
        world = random_map(dice)
        hint = dice.choice([world.low, world.high, dice.randrange(SIZE), dice.randrange(SIZE)])
        length = dice.choice([1, 2, 3, 4, 6, 9, 20, dice.randrange(1, SIZE)])
        align = dice.choice([1, 1, 2, 4, 8, 16, 64, 128])
        got = ours(world, hint, length, align, topdown=topdown)
        answers: set[Found] = set()
        for shape in range(300):
            if shape >= 6 and got in answers:
                break
            steps = Steps(world.low, world.high, world.ranges, dice)
            answers.add(steps.search(world.first_free, hint, length, align, topdown=topdown))
        assert got in answers, (world, hint, length, align)
        found += got.address is not None
        failed += got.kassert != ""
        if len(answers) > 1:
            disputed += 1
            assert {answer.kassert for answer in answers} & {CANDIDATE_BELOW, CANDIDATE_ABOVE}, (world, answers)
    assert found > COUNT // 8
    assert failed > COUNT // 400
    assert disputed < COUNT // 100


@pytest.mark.parametrize("topdown", [True, False], ids=["top-down", "bottom-up"])
def test_with_colours_it_is_that_of_the_kernels_steps_too(
    topdown: bool,  # noqa: FBT001 - a column of the table
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """On maps that keep away from the ends of the address space, as those must on which colours are asked for."""
    monkeypatch.setattr(findspace, "WORD", SIZE)
    dice = random.Random(2)
    found = compared = 0
    while compared < COUNT // 2:
        world = random_map(dice)
        colors = dice.choice([2, 4, 8, 16])
        if not colors <= world.low < world.high <= SIZE - colors:
            continue
        compared += 1
        color = dice.randrange(colors)
        hint = dice.choice([world.low, world.high, dice.randrange(SIZE - colors)])
        length = dice.choice([1, 2, 3, 4, 6, 9, 20])
        entries, free = world.entries, world.first_free
        if topdown:
            first_free = list(entries)[free] if free >= 0 else None
            got = findspace.top_down(entries, first_free, hint, length, colors, color)
        else:
            got = findspace.bottom_up(entries, hint, length, colors, color)
        answers = set()
        for shape in range(300):
            if shape >= 4 and got in answers:
                break
            steps = Steps(world.low, world.high, world.ranges, dice)
            answers.add(steps.search(free, hint, length, colors, topdown=topdown, color=color))
        assert got in answers, (world, hint, length, colors, color)
        found += got.address is not None
    assert found > compared // 3
