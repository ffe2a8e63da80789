"""Hunts races, deadlocks and lost wakeups in kernel VM protocols, under a scheduler that decides every interleaving.

What a scenario needs is here and in `stressvm.vm`; everything else is for those who build on stressvm.
"""

from stressvm._version import __version__
from stressvm.check.bounds import bounds
from stressvm.check.detector import Detector
from stressvm.check.history import Call, History
from stressvm.check.linearizability import Specification
from stressvm.check.lock_order import Duplicates, LockOrder, Rules
from stressvm.check.verdict import KINDS, Verdict
from stressvm.explore.scenario import Scenario, scenario
from stressvm.kernel.balance import Left, nothing_left
from stressvm.kernel.cell import Atomic, Cell
from stressvm.kernel.condvar import CondVar
from stressvm.kernel.errors import Panic, ReplayDiverged, StressvmError, UsageError
from stressvm.kernel.field import Field
from stressvm.kernel.grant import Fifo, Grant, Priority
from stressvm.kernel.kernel import Kernel, Timers
from stressvm.kernel.line import Line
from stressvm.kernel.mutex import Mutex, SpinMutex
from stressvm.kernel.rwlock import NetBSDRwLock, Rw, RwLock
from stressvm.kernel.semaphore import Semaphore
from stressvm.kernel.sleepq import SleepQueue
from stressvm.kernel.sx import FreeBSDSx, Sx
from stressvm.kernel.thread import Thread, Wake

__all__ = [
    "KINDS",
    "Atomic",
    "Call",
    "Cell",
    "CondVar",
    "Detector",
    "Duplicates",
    "Field",
    "Fifo",
    "FreeBSDSx",
    "Grant",
    "History",
    "Kernel",
    "Left",
    "Line",
    "LockOrder",
    "Mutex",
    "NetBSDRwLock",
    "Panic",
    "Priority",
    "ReplayDiverged",
    "Rules",
    "Rw",
    "RwLock",
    "Scenario",
    "Semaphore",
    "SleepQueue",
    "Specification",
    "SpinMutex",
    "StressvmError",
    "Sx",
    "Thread",
    "Timers",
    "UsageError",
    "Verdict",
    "Wake",
    "__version__",
    "bounds",
    "nothing_left",
    "scenario",
]
