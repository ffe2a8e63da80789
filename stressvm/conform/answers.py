"""What cases of every system share: operations in words, answers as they are recorded, and their comparison."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final, TypeAlias

from stressvm.conform.tally import Differs

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from stressvm.vm.entry import E
    from stressvm.vm.skiplist import EntryList

Answer: TypeAlias = dict[str, Any]

#: A list or a map with more entries than this is shown in part: where the difference is.
WHOLE_MAX: Final = 40
#: Entries shown then, before the place and after it.
REACH: Final = 8


def canonical(value: Any) -> Any:
    """Numbers as answers have them: hex strings without leading zeros; anything else as it is."""
    return hex(int(value, 16)) if isinstance(value, str) else value


def in_words(number: int, word: str, args: Mapping[str, Any]) -> str:
    """An operation for people."""
    return f"operation {number}: {word}({', '.join(f'{name}={_argument(value)}' for name, value in args.items())})"


def _argument(value: Any) -> str:
    if type(value) is int:
        return hex(value)
    return f"<{len(value)}>" if isinstance(value, tuple) else str(value)


def compare(where: str, expected: Answer, actual: Answer, picture: Callable[[], str], *, fields: bool = False) -> None:
    """Two answers that should be one.

    Args:
        where: what was asked, in words.
        expected: as recorded.
        actual: as the model has it.
        picture: draws the map there.
        fields: of a difference show only those fields that differ.

    Raises:
        Differs: they are not.
    """
    if expected == actual:
        return
    if fields:
        wrong = [name for name in expected if expected[name] != actual.get(name)]
        shown = {name: _narrowed(expected[name], actual.get(name)) for name in wrong}
        expected = {name: pair[0] for name, pair in shown.items()}
        actual = {name: pair[1] for name, pair in shown.items()}
    raise Differs(where, expected, actual, picture())


def _narrowed(expected: Any, actual: Any) -> tuple[Any, Any]:
    """Of two long lists their lengths and the first items that differ."""
    if not (isinstance(expected, list) and isinstance(actual, list) and max(len(expected), len(actual)) > WHOLE_MAX):
        return expected, actual
    at = next((i for i, (a, b) in enumerate(zip(expected, actual, strict=False)) if a != b), -1)
    if at < 0:
        at = min(len(expected), len(actual))
    return _from(expected, at), _from(actual, at)


def _from(items: list[Any], at: int) -> Answer:
    return {"length": len(items), "from": at, "items": items[at : at + REACH]}


def surroundings(entries: EntryList[E], addr: int) -> str:
    """The map around an address; all of it if it is small."""
    if len(entries) <= WHOLE_MAX:
        return entries.describe()
    _, entry = entries.lookup(addr)
    before: list[E] = []
    while entry is not None and len(before) < REACH:
        before.append(entry)
        entry = entries.prev_of(entry)
    after = before[0] if before else None
    shown = before[::-1]
    while (after := entries.next_of(after) if after is not None else entries.first) is not None:
        shown.append(after)
        if len(shown) >= len(before) + REACH:
            break
    ranges = "\n".join(f"  {one.start:#x}-{one.end:#x}, then {entries.gap_after(one):#x} free" for one in shown)
    return f"{entries!r}, around {addr:#x}\n{ranges}"
