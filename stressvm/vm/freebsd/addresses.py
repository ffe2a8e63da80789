"""Addresses, lengths and offsets are numbers of 64 bits without sign, as in the kernel; no caller there can have others.

Python's have no end, and searches would go astray with them, so the public calls refuse them before anything is locked.
"""

from __future__ import annotations

from stressvm.kernel.errors import UsageError
from stressvm.vm.freebsd import flags as F  # noqa: N812 - the constants, as the kernel writes them


def must_fit(call: str, **given: object) -> None:
    """Refuse what is no number of 64 bits without sign. Locks: any or none. Sleeps: no. Returns: nothing.

    Args:
        call: who was given it, by its name in the kernel.
        **given: the arguments, in bytes.

    Raises:
        UsageError: one of them is below 0, above 2^64 - 1, or no integer.
    """
    for name, value in given.items():
        if not isinstance(value, int) or not 0 <= value <= F.VM_OFFSET_MASK:
            shown = f"{value:#x}" if isinstance(value, int) else f"{value!r}"
            raise UsageError(
                f"{call}({name}={shown}): addresses and lengths are integers from 0 to 2^64 - 1, in bytes; what shall wrap "
                f"as in the kernel is `{name} & freebsd.VM_OFFSET_MASK`"
            )
