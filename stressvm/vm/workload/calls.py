"""One memory call as strace prints it: its arguments read and checked, and what it does to a map.

The arguments are read as strictly as they can be: a call that no kernel would have answered so is refused by name,
because everything after it would be accounted wrongly.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final

from stressvm.vm.workload.operations import PAGE_BYTES

_ADDRESS_END: Final = 1 << 64

_MAP_FIXED: Final = 0x10
_MAP_NOREPLACE: Final = 0x100000
_MREMAP_DONTUNMAP: Final = 4
CLONE_VM: Final = 0x100
_FLAGS: Final = {
    "CLONE_VM": CLONE_VM,
    "MAP_FIXED": _MAP_FIXED,
    "MAP_FIXED_NOREPLACE": _MAP_NOREPLACE,
    "MREMAP_DONTUNMAP": _MREMAP_DONTUNMAP,
    "PROT_READ": 1,
    "PROT_WRITE": 2,
    "PROT_EXEC": 4,
}
_BITS: Final = re.compile(r"(?P<name>[A-Z][A-Z0-9_]*)|(?P<number>0x[0-9a-f]{1,16}|0|[1-9]\d{0,18})|\d{1,2}<<[A-Z_]+")

_A: Final = r"(?:NULL|0x[0-9a-f]{1,16}|\d{1,20})"
_S: Final = r"(?:0x[0-9a-f]{1,16}|\d{1,20})"
ARGUMENTS: Final = {
    "mmap": re.compile(rf"(?P<address>{_A}), (?P<length>{_S}), (?P<prot>[^,]+), (?P<flags>[^,]+), .+, .+"),
    "munmap": re.compile(rf"(?P<address>{_A}), (?P<length>{_S})"),
    "mprotect": re.compile(rf"(?P<address>{_A}), (?P<length>{_S}), (?P<prot>[^,]+)(?:, .+)?"),
    "mremap": re.compile(rf"(?P<address>{_A}), (?P<length>{_S}), (?P<wanted>{_S}), (?P<flags>[^,]+)(?:, {_A})?"),
    "brk": re.compile(rf"(?P<address>{_A})"),
}


class Fault(Exception):  # noqa: N818 -- never leaves this package: parse_log turns it into a UsageError with the place
    """What is wrong with a line."""


@dataclass(frozen=True, slots=True)
class Call:
    """One successful memory call: `name` as in `ARGUMENTS`, thread, first and last line, arguments, result.

    Addresses and lengths are in bytes, as logged; `wanted` is the new length of mremap; what a call has not is 0.
    """

    name: str
    pid: int
    begin: int
    end: int
    address: int
    length: int
    wanted: int
    protection: str
    flags: int
    result: int

    @property
    def fixed(self) -> bool:
        """Whether it is a mmap that insists on its address."""
        return self.name == "mmap" and bool(self.flags & (_MAP_FIXED | _MAP_NOREPLACE))

    @property
    def replaces(self) -> bool:
        """Whether it is a mmap that may land on a live mapping; any other goes where nothing is."""
        return self.name == "mmap" and bool(self.flags & _MAP_FIXED)

    @property
    def moves(self) -> bool:
        """Whether it takes pages away where it begins, and puts them down where it ends."""
        keeps_source = not self.length or self.flags & _MREMAP_DONTUNMAP
        return self.name == "mremap" and self.result != self.address and not keeps_source

    @property
    def gives_back(self) -> bool:
        """Whether it takes effect where it begins."""
        shrinks = self.name == "mremap" and self.result == self.address and self.wanted <= self.length
        return shrinks or self.name in {"munmap", "mprotect"}


def decode(name: str, pid: int, lines: tuple[int, int], arguments: str, result: int) -> Call:
    """A call from its text; `lines` are its first and its last.

    Raises:
        Fault: the arguments cannot be read, or no kernel would have answered so.
    """
    found = ARGUMENTS[name].fullmatch(arguments)
    if not found:
        raise Fault(f"the arguments of {name} cannot be read: {short(arguments)}")
    got = found.groupdict()
    address, length, wanted = (number(got.get(key, "0")) for key in ("address", "length", "wanted"))
    bits = bits_of(got.get("prot", "0"))
    protection = "".join(letter if bits >> place & 1 else "-" for place, letter in enumerate("rwx"))
    call = Call(name, pid, *lines, address, length, wanted, protection, bits_of(got.get("flags", "0")), result)
    if fault := _impossible(call):
        raise Fault(f"{name}({short(arguments)}) = {result:#x}: {fault}")
    return call


def number(text: str) -> int:
    """A number as strace prints it."""
    if text == "NULL":
        return 0
    return int(text, 16 if text.startswith("0x") else 10)


def bits_of(text: str) -> int:
    """Flags, decoded or not (`MAP_PRIVATE|0x20`, `0x22 /* ... */`); names that do not matter here are 0."""
    bits = 0
    for token in text.partition("/*")[0].strip().split("|"):
        found = _BITS.fullmatch(token)
        if not found:
            raise Fault(f"flags that cannot be read: {short(text)}")
        bits |= _FLAGS.get(found["name"], 0) if found["name"] else number(found["number"] or "0")
    return bits


def _impossible(call: Call) -> str | None:
    """What is wrong with a call that no kernel would have answered so; None if nothing is."""
    gives_address = call.name in {"mmap", "mremap"}
    reach = max(call.address + call.length, call.result + max(call.length if gives_address else 0, call.wanted))
    if call.result < 0 or (not gives_address and call.name != "brk" and call.result != 0):
        return "a result that this call does not have"
    if reach > _ADDRESS_END:
        return "beyond the end of 64-bit addresses"
    if gives_address and not (call.wanted if call.name == "mremap" else call.length):
        return "an empty mapping"
    if call.name != "brk" and (call.name != "mmap" or call.fixed) and call.address % PAGE_BYTES:
        return f"an address that is no multiple of {PAGE_BYTES}"
    if gives_address and call.result % PAGE_BYTES:
        return f"a result that is no multiple of {PAGE_BYTES}"
    if call.fixed and call.result != call.address:
        return "a fixed mapping that went elsewhere"
    return None


def pages_of(length: int) -> int:
    """Bytes in pages, rounded up."""
    return -(-length // PAGE_BYTES)


def short(text: str) -> str:
    """A text as messages quote it: one line of ASCII, not too long."""
    return ascii(text if len(text) <= 80 else f"{text[:77]}...")
