"""FreeBSD's face of the map core. So far: the map lock, of system maps and of user maps."""

from stressvm.vm.freebsd.map_lock import SystemMapLock, UserMapLock

__all__ = ["SystemMapLock", "UserMapLock"]
