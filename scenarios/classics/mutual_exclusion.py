"""Mutual exclusion out of loads and stores: Dekker's and Peterson's algorithms, and tickets."""

from __future__ import annotations

from typing import TYPE_CHECKING

from stressvm import Atomic, Cell, Kernel, scenario

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    Step = Callable[[int], Awaitable[None]]

PETERSON = "G. L. Peterson, Information Processing Letters, 1981"


def compete(k: Kernel, threads: int, enter: Step, leave: Step) -> None:
    """Each thread enters once, and asserts that nobody else is inside."""
    inside = Cell(k, -1, "inside")

    async def thread(me: int) -> None:
        await enter(me)
        await inside.store(me)
        assert await inside.load() == me, "two are inside"
        await leave(me)

    for me in range(threads):
        k.spawn(thread, me)


def peterson_with(k: Kernel, *, turn_first: bool) -> None:
    """Two threads; each says that it wants to and leaves the turn to the other, in this order or the wrong one."""
    wants = [Atomic(k, value=False, name=f"wants{me}") for me in range(2)]
    turn = Atomic(k, 0, "turn")

    async def enter(me: int) -> None:
        if turn_first:
            await turn.store(1 - me)
            await wants[me].store(value=True)
        else:
            await wants[me].store(value=True)
            await turn.store(1 - me)
        while await wants[1 - me].load() and await turn.load() != me:
            await k.yield_()

    async def leave(me: int) -> None:
        await wants[me].store(value=False)

    compete(k, 2, enter, leave)


@scenario(source=PETERSON, executions=300)
def peterson(k: Kernel) -> None:
    """As published: the wish first, then the turn."""
    peterson_with(k, turn_first=False)


@scenario(expect="assertion", source=PETERSON)
def peterson_broken(k: Kernel) -> None:
    """With the two stores exchanged, both find the other not interested, or the turn their own."""
    peterson_with(k, turn_first=True)


@scenario(source="T. J. Dekker, in E. W. Dijkstra, Cooperating sequential processes, 1965", executions=300)
def dekker(k: Kernel) -> None:
    """Whoever's turn it is not takes its wish back and waits."""
    wants = [Atomic(k, value=False, name=f"wants{me}") for me in range(2)]
    turn = Atomic(k, 0, "turn")

    async def enter(me: int) -> None:
        await wants[me].store(value=True)
        while await wants[1 - me].load():
            if await turn.load() != me:
                await wants[me].store(value=False)
                while await turn.load() != me:
                    await k.yield_()
                await wants[me].store(value=True)
            else:
                await k.yield_()

    async def leave(me: int) -> None:
        await turn.store(1 - me)
        await wants[me].store(value=False)

    compete(k, 2, enter, leave)


def tickets(k: Kernel, threads: int, *, atomic: bool) -> None:
    """Draw a ticket, in one step or in two, and wait until it is served."""
    following = Atomic(k, 0, "next")
    serving = Atomic(k, 0, "serving")
    mine = [0] * threads

    async def enter(me: int) -> None:
        if atomic:
            mine[me] = await following.fetchadd(1)
        else:
            mine[me] = await following.load()
            await following.store(mine[me] + 1)
        while await serving.load() != mine[me]:
            await k.yield_()

    async def leave(me: int) -> None:
        await serving.store(mine[me] + 1)

    compete(k, threads, enter, leave)


@scenario(expect="assertion", tolerate=("livelock",), source="text-book", max_steps=400)
def ticket_lock_broken(k: Kernel, threads: int = 2) -> None:
    """Drawn in two steps, one number is drawn twice, and both come in."""
    tickets(k, threads, atomic=False)


@scenario(source="Mellor-Crummey and Scott, 1991", executions=300)
def ticket_lock(k: Kernel, threads: int = 2) -> None:
    """Drawn in one step, no number is drawn twice."""
    tickets(k, threads, atomic=True)
