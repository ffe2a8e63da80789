"""Two ways to lose money: check, then act; and read, then write."""

from stressvm import Atomic, Kernel, Mutex, scenario


def withdrawals(k: Kernel, balance: int, amount: int, *, locked: bool) -> None:
    """Two threads withdraw if there is enough; each single access is atomic."""
    lock = Mutex(k, "lock")
    account = Atomic(k, balance, "balance")

    async def withdraw() -> None:
        if locked:
            await lock.lock()
        if await account.load() >= amount:
            before = await account.fetchadd(-amount)
            assert before >= amount, f"{amount} taken where {before} was left"
        if locked:
            await lock.unlock()

    k.spawn(withdraw)
    k.spawn(withdraw)


@scenario(expect="assertion", source="text-book: check, then act")
def overdrawn(k: Kernel, balance: int = 100, amount: int = 80) -> None:
    """Both find enough; the second one takes what is not there."""
    withdrawals(k, balance, amount, locked=False)


@scenario(source="text-book", executions=300)
def overdrawn_ok(k: Kernel, balance: int = 100, amount: int = 80) -> None:
    """The same with the check and the act under a lock."""
    withdrawals(k, balance, amount, locked=True)


def count_up(k: Kernel, threads: int, increments: int, *, atomic: bool) -> None:
    """All increment one counter; main looks at it when they have ended."""
    counter = Atomic(k, 0, "counter")

    async def work() -> None:
        for _ in range(increments):
            if atomic:
                await counter.fetchadd(1)
            else:
                await counter.store(await counter.load() + 1)

    async def main() -> None:
        for thread in [k.spawn(work) for _ in range(threads)]:
            await k.join(thread)
        found = await counter.load()
        assert found == threads * increments, f"{threads * increments} increments made {found}"

    k.spawn(main)


@scenario(expect="assertion", source="text-book: the lost update")
def lost_update(k: Kernel, threads: int = 2, increments: int = 1) -> None:
    """Both read the same value, and both write its successor."""
    count_up(k, threads, increments, atomic=False)


@scenario(source="text-book", executions=300)
def lost_update_ok(k: Kernel, threads: int = 2, increments: int = 1) -> None:
    """The same with an increment that is one step."""
    count_up(k, threads, increments, atomic=True)
