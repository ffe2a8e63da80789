"""CPUs: who runs where and for how long, who is preempted, who spins for a lock and who sleeps for it.

One half of `MachineKernel`; the other one decides what happens next.
"""

from __future__ import annotations

from heapq import heappush
from typing import TYPE_CHECKING, cast

from stressvm.study.costs import COLD
from stressvm.study.grants import ADAPTIVE, Barging, Fifo, Request
from stressvm.study.proc import NEVER, OFF, READY, RUNNING, SPINNING, Cpu, Plan, Waiting
from stressvm.study.runq import QUEUES

if TYPE_CHECKING:
    from collections import deque

    from stressvm.kernel.object import KernelObject
    from stressvm.kernel.op import Op
    from stressvm.study.machine import Machine
    from stressvm.study.proc import Proc, State
    from stressvm.study.subscriber import Subscriber

#: How long an adaptive spinner spins before it looks again whether the holder is on a CPU, in ticks.
_LOOK: int = 1_000


class Cpus:
    """See the module. The attributes without values are those of the other half."""

    clock: int
    enabled: int
    timers: dict[int, int]
    pend: list[Op | None]
    objects: list[KernelObject]
    procs: list[Proc]
    plans: dict[Op, Plan]
    heap: list[tuple[int, int, Proc]]
    serials: int
    waiting: dict[int, Waiting]
    grants: deque[Proc]
    owners: dict[int, int]
    start_op: Op
    yield_op: Op

    def make_cpus(self, machine: Machine, subscriber: Subscriber) -> None:
        """All of them are idle."""
        self.costs = machine.costs
        self.heard = subscriber
        self.cpus = [Cpu() for _ in range(machine.ncpu)]
        self.idle = dict.fromkeys(range(machine.ncpu))
        self.runq = QUEUES[machine.queue]()
        self.quantum = machine.quantum or NEVER
        self.preemptive = machine.preemptive and machine.queue == "priority"
        self.grant = machine.grant
        self.spin = machine.spin
        self.preemptions = 0
        self.waker: Proc | None = None

    def plan(self, op: Op) -> Plan:
        """What is known of an operation."""
        plan = self.plans.get(op)
        if plan is None:
            plan = self.plans[op] = Plan(op, self.costs.of(op.kind), cold=op.kind in COLD and self.costs.transfer > 0)
        return plan

    def cost(self, p: Proc, op: Op) -> int:
        """What the next operation of a thread takes, with what it owes for the last one."""
        if p.device:
            p.owed = 0
            return 0
        plan = self.plans.get(op) or self.plan(op)
        ticks = plan.cost + p.owed
        p.owed = 0
        if plan.cold:
            number = op.obj.number
            if self.owners.get(number, p.cpu) != p.cpu:
                ticks += self.costs.transfer
            self.owners[number] = p.cpu
        return ticks

    def can_go(self, p: Proc) -> bool:
        """Can a thread do now what it has announced? A newcomer may have to queue all the same."""
        if not self.enabled & p.bit:
            return self.timers.get(p.t, NEVER) <= self.clock
        if self.waiting and p.tried < 0:
            op = self.pend[p.t] or self.start_op
            if op.obj.number in self.waiting and self.plan(op).lock:
                wait = self.waiting[op.obj.number]
                if wait.requests and self.grant.queues(_request(p, op), wait.requests.values()):
                    return False
        return True

    def at(self, p: Proc, when: int) -> None:
        """The one thing that is to come for a thread."""
        self.serials += 1
        p.event = self.serials
        heappush(self.heap, (when, self.serials, p))

    # ---------------------------------------------------------------- getting a CPU, and leaving it

    def make_ready(self, p: Proc, waker: Proc | None) -> None:
        """A thread can go on as soon as it has a CPU."""
        p.event = 0
        if p.device:
            p.state = RUNNING
            self.at(p, self.clock)
            return
        p.state = READY
        p.need = -1
        idle = self.idle
        if idle:
            cpu = p.cpu if p.cpu in idle else next(iter(idle))
            del idle[cpu]
            far = waker is not None and waker.state is RUNNING and not waker.device and waker.cpu != cpu
            self.run_on(cpu, p, self.costs.ipi if far else 0)
            return
        if p.th.interrupt or self.preemptive:
            victim = self._victim(p)
            if victim is not None:
                self.preempt(victim)
                self.runq.push_front(victim)
                self.run_on(victim.cpu, p, self.costs.ipi if waker is not None and waker.cpu != victim.cpu else 0)
                return
        if p.th.interrupt:
            self.runq.push_front(p)
        else:
            self.runq.push(p)

    def _victim(self, p: Proc) -> Proc | None:
        """Whose CPU it takes: the least urgent one's, which holds no spin mutex. None: nobody's."""
        found: Proc | None = None
        for cpu in self.cpus:
            q = cpu.proc
            if q is None or q.th.interrupt or q.th.spins:
                continue
            if (p.th.interrupt or q.priority < p.priority) and (found is None or q.priority < found.priority):
                found = q
        return found

    def run_on(self, number: int, p: Proc, late: int = 0) -> None:
        """A CPU, which is not idle any more, runs a thread that is ready."""
        cpu = self.cpus[number]
        cpu.proc = p
        p.cpu = number
        p.state = RUNNING
        switched = cpu.last is not p.th
        if p.need < 0:
            op = self.pend[p.t]
            p.need = self.cost(p, op if op is not None else self.start_op)
        over = 0
        if switched:
            over = self.costs.interrupt if p.th.interrupt else self.costs.switch
            p.need += over
            cpu.switching += over
            cpu.switches += cpu.last is not None
            cpu.last = p.th
        p.began = self.clock + late
        # The quantum is for the thread: getting there is not counted, or a short one would be used up by switches.
        p.slice_end = p.began + over + self.quantum
        self.heard.on_run(self.clock, p.t, number, switched=switched)
        self.at(p, min(p.began + p.need, p.slice_end))

    def go_on(self, p: Proc, ticks: int) -> None:
        """A thread on a CPU needs that many ticks for its next operation."""
        if p.device:
            p.state = RUNNING
            self.at(p, self.clock)
            return
        p.need = ticks
        p.began = self.clock
        if self.pend[p.t] is self.yield_op:
            p.slice_end = self.clock
        if self.clock >= p.slice_end and not self._renews(p):
            return
        self.at(p, min(self.clock + ticks, p.slice_end))

    def _renews(self, p: Proc) -> bool:
        """Its quantum is over. True if it gets another one, as nobody waits."""
        if not len(self.runq) or p.th.spins or p.th.interrupt:
            p.slice_end = self.clock + self.quantum
            return True
        self.preempt(p)
        self.runq.push(p)
        self.next_on(p.cpu)
        return False

    def end_of_slice(self, p: Proc) -> None:
        """The quantum of a thread is over in the middle of what it does."""
        if self._renews(p) and p.need:
            self.at(p, self.clock + min(p.need, self.quantum))

    def charge(self, p: Proc, now: int) -> None:
        """Its CPU has run it until now."""
        ran = now - p.began
        if ran > 0:
            p.running += ran
            self.cpus[p.cpu].running += ran
            p.need = max(0, p.need - ran)
            p.began = now

    def preempt(self, p: Proc) -> None:
        """Take the CPU from a thread; where it waits for the next one is for the caller."""
        self.preemptions += 1
        self.heard.on_preempt(self.clock, p.t, p.cpu)
        if p.state is SPINNING:
            self._leave_line(p)
            p.need = -1
        else:
            self.charge(p, self.clock)
        p.event = 0
        p.state = READY

    def close(self, now: int) -> None:
        """It is over: what CPUs are in the middle of is charged so far."""
        self.clock = now
        for cpu in self.cpus:
            if cpu.proc is not None:
                if cpu.proc.state is SPINNING:
                    self._charge_spin(cpu.proc)
                else:
                    self.charge(cpu.proc, now)

    def off_cpu(self, p: Proc, was: State) -> None:
        """A thread leaves its CPU by itself."""
        if was is RUNNING and not p.device:
            self.release_cpu(p)

    def release_cpu(self, p: Proc) -> None:
        """Its CPU goes to the next in the run queue, or is idle."""
        self.next_on(p.cpu)

    def next_on(self, number: int) -> None:
        """A CPU takes the next thread."""
        self.cpus[number].proc = None
        if len(self.runq):
            self.run_on(number, self.runq.pop())
        else:
            self.idle[number] = None

    # ---------------------------------------------------------------- locks

    def contend(self, p: Proc, op: Op) -> None:
        """A thread has tried and cannot have the lock: it spins, or sleeps."""
        limit = self._spins(p, op)
        if not limit:
            self.wait_for_lock(p, op)
            return
        self.waiting.setdefault(op.obj.number, Waiting()).add(p, op, spins=True)
        p.state = SPINNING
        p.began = self.clock
        self.heard.on_spin(self.clock, p.t, op.obj)
        if limit < NEVER:
            self.at(p, self.clock + limit)

    def _spins(self, p: Proc, op: Op) -> int:
        """For how long it spins: 0, NEVER for without end, or until it looks again."""
        if p.device:
            return 0
        lock = self.objects[op.obj.number]
        if getattr(lock, "SPINS", False) or p.th.interrupt or p.th.spins:
            return NEVER
        if self.spin != ADAPTIVE:
            return self.spin
        return _LOOK if self._on_cpu(lock) else 0

    def _on_cpu(self, lock: KernelObject) -> bool:
        """Is a holder of a lock on a CPU?"""
        return any(self.procs[t].state in {RUNNING, SPINNING} for t in lock.holders())

    def stop_spinning(self, p: Proc) -> None:
        """It has spun as long as it wants to: it sleeps, or looks again."""
        op = cast("Op", self.pend[p.t])
        if self.spin == ADAPTIVE and self._on_cpu(self.objects[op.obj.number]):
            self.at(p, self.clock + _LOOK)
            return
        self._leave_line(p)
        p.state = RUNNING
        self.wait_for_lock(p, op)

    def _leave_line(self, p: Proc) -> None:
        """A spinner spins no more: it is charged."""
        op = cast("Op", self.pend[p.t])
        self.waiting[op.obj.number].remove(p)
        self._forget(op.obj.number)
        self._charge_spin(p)

    def _charge_spin(self, p: Proc) -> None:
        spun = self.clock - p.began
        p.spinning += spun
        self.cpus[p.cpu].spinning += spun
        p.began = self.clock

    def wait_for_lock(self, p: Proc, op: Op) -> None:
        """It leaves its CPU, and sleeps until the lock is released to it."""
        self.waiting.setdefault(op.obj.number, Waiting()).add(p, op, spins=False)
        was, p.state = p.state, OFF
        self.off_cpu(p, was)
        self.heard.on_block(self.clock, p.t, op.obj, "lock")

    def tries(self, p: Proc) -> None:
        """One that was woken for a lock tries again."""
        wait = self.waiting[p.tried]
        wait.pending -= 1
        self._forget(p.tried)
        p.tried = -1

    def _forget(self, number: int) -> None:
        wait = self.waiting[number]
        if not wait.requests and not wait.pending:
            del self.waiting[number]

    def lock_freed(self, number: int, by: Proc) -> None:
        """Something was done to a lock: may somebody who waits for it have it now?"""
        wait = self.waiting.get(number)
        if wait is None or not wait.requests or wait.pending:
            return
        enabled = self.enabled
        if not enabled & wait.mask:
            return
        first = next(iter(wait.requests.values()))
        if first.alone and enabled >> first.thread & 1 and not wait.spinners and type(self.grant) in {Barging, Fifo}:
            chosen = [first]
        else:
            able = wait.able(enabled, self.grant)
            if not able:
                return
            chosen = [able[at] for at in self.grant.chosen(able)]
        for one in chosen:
            p = self.procs[one.thread]
            if self.grant.hands_over:
                self._hand(wait, p, by)
            else:
                self._wake_for(number, wait, p, by)
        self._forget(number)

    def _hand(self, wait: Waiting, p: Proc, by: Proc) -> None:
        """It has the lock now: its step comes next, and only then does it look for a CPU."""
        wait.remove(p)
        if p.state is SPINNING:
            self._charge_spin(p)
            p.state = RUNNING
            p.event = 0
        else:
            by.owed += self.costs.wake
            self.heard.on_wake(self.clock, p.t, by.t)
        self.grants.append(p)

    def _wake_for(self, number: int, wait: Waiting, p: Proc, by: Proc) -> None:
        """It may try; others may come first."""
        wait.remove(p)
        wait.pending += 1
        p.tried = number
        if p.state is SPINNING:
            self._charge_spin(p)
            p.state = RUNNING
            self.go_on(p, self.cost(p, cast("Op", self.pend[p.t])))
        else:
            by.owed += self.costs.wake
            self.heard.on_wake(self.clock, p.t, by.t)
            self.make_ready(p, by)


def _request(p: Proc, op: Op) -> Request:
    return Request(p.t, op.needs == 1, p.priority, spins=False)
