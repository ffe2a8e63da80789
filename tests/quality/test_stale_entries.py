"""Planted uses of freed entries: with the maps' worlds watching, they are found as what they are."""

from __future__ import annotations

import pytest

from stressvm.vm import freebsd
from tests.quality.test_planted_map_defects import TimestampStays, UpgradesBlindly, Wiring, find, kind, only


def _watched(lock: type[freebsd.UserMapLock] | None) -> type[freebsd.VmMap]:
    class Planted(freebsd.VmMap13):
        def make_lock(self) -> freebsd.UserMapLock:
            freebsd.watch_freed(self.k)
            made = lock or freebsd.UserMapLock
            return made(self.k, self.name, self.check, self.process_deferred)

    return Planted


@pytest.mark.parametrize("lock", [UpgradesBlindly, TimestampStays])
def test_an_entry_that_is_kept_over_a_gap_in_the_lock_is_used_after_it_was_freed(
    lock: type[freebsd.UserMapLock],
) -> None:
    found = find(only(Wiring, "fault", "remove", "insert", map_classes={"13": _watched(lock)}))
    assert kind(found) == "stale"
    assert "which" in str(found)
    assert "freed at step" in str(found)
