"""Who decides where there is room: the entry list alone, or the splay tree of the real vm_map.c beside it.

FreeBSD keeps the entries of a map in a top-down splay tree after Sleator and Tarjan. With two exceptions nobody can see
its shape. One is how long things take. The other is a defect of 13.0: vm_map_findspace descends to the hint, and when
the hint lies in a gap that is too small, it makes the entry after that gap the root and looks for room to the right of
it. If that entry is the last one, it has no right child, and the search ends with "no space", although the room between
the entry and the end of the map has not been looked at. A descent that is cut short by a subtree without a gap that
large ends elsewhere, and the room is found: so the answer depends on the shape, and thereby on every lookup before.

The map's own searches need no tree, the entry list answers them. `FirstFit` does just that. `SplayTree` follows the
shape, step by step, for a map that is to fail where the kernel's fails. It takes two calls for each change of the
entries, one before and one after, as the original goes down the tree before the change and up again after it.

Two things of the original are left out, as they make no difference: the threads in place of missing children (the
entry list knows the neighbours), and the largest gaps being adjusted during a descent (nothing reads them until the
way up, which sets them anew).

Source: sys/vm/vm_map.c of releng/13.0, vm_map_splay_split and its kin, vm_map_entry_link, vm_map_entry_unlink,
vm_map_entry_resize, vm_map_findspace.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeAlias

if TYPE_CHECKING:
    from stressvm.vm.freebsd.vm_map_entry import VmMapEntry
    from stressvm.vm.skiplist import EntryList

    #: The way down on one side: each entry with the one that was rotated below it, if any, the last one deepest.
    Spine: TypeAlias = list[tuple[VmMapEntry, VmMapEntry | None]]
    #: What a descent has come to: the root of what is left (or None), and both spines.
    Opened: TypeAlias = tuple[VmMapEntry | None, Spine, Spine]


class FirstFit:
    """First fit, as documented. The base of SplayTree: all that a map tells it about its changes is ignored."""

    def __init__(self, entries: EntryList[VmMapEntry]) -> None:
        self.entries = entries

    def findspace(self, start: int, length: int) -> int | None:
        """The lowest address from `start` on, which is within the map, with `length` bytes free; None for none."""
        if length:
            return self.entries.first_fit(length, start)
        found, entry = self.entries.lookup(start)
        return entry.end if found and entry is not None else start

    def at_root(self, addr: int) -> bool:  # noqa: ARG002 - nobody knows the root
        """Is the entry with this address the root, so that a lookup leaves the tree alone? An empty tree always is."""
        return not len(self.entries)

    def splay(self, addr: int) -> None:
        """A lookup, which makes the entry found the root."""

    def open(self, addr: int, *, before: bool = False, after: bool = False) -> Opened:  # noqa: ARG002 - no tree
        """Before a change at `addr`: descend, and with `before` or `after` also to the neighbours of what is found."""
        return None, [], []

    def linked(self, opened: Opened, entry: VmMapEntry) -> None:
        """After `entry` has been put in, or split off from the one that was found."""

    def unlinked(self, opened: Opened) -> None:
        """After the entry that was found has been taken out, or was merged into the next one."""

    def resized(self, opened: Opened) -> None:
        """After the entry that was found has been given another end."""

    def check(self) -> None:
        """Prove what is kept."""


class SplayTree(FirstFit):
    """The splay tree of 13.0, which decides as the real one does."""

    def __init__(self, entries: EntryList[VmMapEntry]) -> None:
        super().__init__(entries)
        self.root: VmMapEntry | None = None

    # ------------------------------------------------------------ what the map calls

    def at_root(self, addr: int) -> bool:
        """Is the entry with this address the root? An empty tree is left alone as well."""
        root = self.root
        return root is None or root.start <= addr < root.end

    def splay(self, addr: int) -> None:
        """Make the entry with `addr` the root, or else its neighbour, the lower one if there is one."""
        if self.at_root(addr):
            return
        root, low, high = self.open(addr)
        if root is None:
            root = _deepest(low or high)
        self._close(root, low, high)

    def open(self, addr: int, *, before: bool = False, after: bool = False, length: int = 0) -> Opened:
        """Descend to `addr`; a subtree without a gap of `length` bytes ends the descent."""
        low: Spine = []
        high: Spine = []
        root = self.root
        while root is not None and root.max_free >= length:
            if addr < root.start:
                child = root.left
                turn = child is not None and child.max_free >= length and addr < child.start
                root = _step_left(root, high, turn=turn)
            elif addr >= root.end:
                child = root.right
                turn = child is not None and child.max_free >= length and addr >= child.end
                root = _step_right(root, low, turn=turn)
            else:
                break
        if root is not None and before:
            child, root.left = root.left, None
            while child is not None:
                child = _step_right(child, low, turn=True)
        if root is not None and after:
            child, root.right = root.right, None
            while child is not None:
                child = _step_left(child, high, turn=True)
        return root, low, high

    def linked(self, opened: Opened, entry: VmMapEntry) -> None:
        """`entry` becomes the root; what it was split off from is the child on its other side."""
        clipped, low, high = opened
        entry.left = entry.right = None
        if clipped is None:
            self._close(entry, low, high)
        elif entry.end == clipped.start:
            clipped.right = _hang_right(high, clipped.right)
            _update(clipped)
            entry.right = clipped
            self._close(entry, low, [])
        else:
            clipped.left = _hang_left(low, clipped.left)
            _update(clipped)
            entry.left = clipped
            self._close(entry, [], high)

    def unlinked(self, opened: Opened) -> None:
        """The entry before it becomes the root, or if there is none the one after it."""
        _, low, high = opened
        if low or high:
            self._close(_deepest(low or high), low, high)
        else:
            self.root = None

    def resized(self, opened: Opened) -> None:
        """It stays the root."""
        root, low, high = opened
        assert root is not None, "an entry that the tree has"
        self._close(root, low, high)

    def findspace(self, start: int, length: int) -> int | None:
        """As vm_map_findspace: it may answer None although there is room (see above)."""
        if self.root is None:
            return start
        root, low, high = self.open(start, length=length)
        gap_end = high[-1][0].start if high else self.entries.max
        if root is not None:
            start = root.end
            if root.right is not None:
                gap_end = start
        else:
            root = _deepest(high or low)
        self._close(root, low, high)
        if length <= gap_end - start:
            return start
        if root.right is None or length > root.right.max_free:
            return None
        return self._least_gap(root, length).end

    # ------------------------------------------------------------ the parts

    def _close(self, root: VmMapEntry, low: Spine, high: Spine) -> None:
        """The way up: both spines become the subtrees of the root."""
        root.left = _hang_left(low, root.left)
        root.right = _hang_right(high, root.right)
        _update(root)
        self.root = root

    def _least_gap(self, node: VmMapEntry | None, length: int) -> VmMapEntry:
        """Splay the lowest gap that is large enough, right of the root; the entry before it, which becomes the root."""
        low: Spine = []
        high: Spine = []
        gap_left = 0
        while node is not None:
            if length <= gap_left:
                child = node.left
                node = _step_left(node, high, turn=child is not None and length <= _gap_left(child))
            else:
                child = node.right
                node = _step_right(node, low, turn=child is not None and length > _gap_left(child))
            gap_left = _gap_left(node) if node is not None else 0
        root = _deepest(low)
        if high:
            after = _deepest(high)
            after.right = _hang_right(high, after.right)
            _update(after)
            root.right = after
        self._close(root, low, [])
        return root

    # ------------------------------------------------------------ proof

    def check(self) -> None:
        """Every entry is in the tree, in order, and says how large the largest gap around its subtree is.

        Raises:
            AssertionError: something is wrong; the message says what.
        """
        order: list[VmMapEntry] = []
        path: list[VmMapEntry] = []
        node = self.root
        while path or node is not None:
            while node is not None:
                path.append(node)
                node = node.left
            node = path.pop()
            order.append(node)
            assert len(order) <= len(self.entries), "the tree has more entries than the list"
            node = node.right
        assert order == list(self.entries), "the tree and the list have different entries"
        for entry in order:
            widest = max(_gap_left(entry), _gap_right(entry))
            assert entry.max_free == widest, f"{entry!r} says max_free is {entry.max_free:#x}, and it is {widest:#x}"


def _gap_left(node: VmMapEntry) -> int:
    """The largest gap of the left subtree, or the gap before the entry if it has none."""
    return node.left.max_free if node.left is not None else node.start - node.prev.end


def _gap_right(node: VmMapEntry) -> int:
    """The same on the right."""
    return node.right.max_free if node.right is not None else node.next.start - node.end


def _update(node: VmMapEntry) -> None:
    node.max_free = max(_gap_left(node), _gap_right(node))


def _step_left(root: VmMapEntry, high: Spine, *, turn: bool) -> VmMapEntry | None:
    """One or two steps down to the left; what is above the target goes on the high spine. Where it goes on."""
    turned = None
    child = root.left
    if turn and child is not None:
        root.left, child.right, turned = child.right, root, root
        root, child = child, child.left
    root.left = None
    high.append((root, turned))
    return child


def _step_right(root: VmMapEntry, low: Spine, *, turn: bool) -> VmMapEntry | None:
    """The mirror image of `_step_left`."""
    turned = None
    child = root.right
    if turn and child is not None:
        root.right, child.left, turned = child.left, root, root
        root, child = child, child.right
    root.right = None
    low.append((root, turned))
    return child


def _hang_left(low: Spine, tail: VmMapEntry | None) -> VmMapEntry | None:
    """The low spine, bottom up, as one left subtree; `tail` is the rightmost part of it."""
    while low:
        node, turned = low.pop()
        node.right = tail
        if turned is not None:
            _update(turned)
        _update(node)
        tail = node
    return tail


def _hang_right(high: Spine, tail: VmMapEntry | None) -> VmMapEntry | None:
    """The high spine, bottom up, as one right subtree; `tail` is the leftmost part of it."""
    while high:
        node, turned = high.pop()
        node.left = tail
        if turned is not None:
            _update(turned)
        _update(node)
        tail = node
    return tail


def _deepest(spine: Spine) -> VmMapEntry:
    """Take the last entry off a spine: it becomes the root of something."""
    node, turned = spine.pop()
    if turned is not None:
        _update(turned)
    return node
