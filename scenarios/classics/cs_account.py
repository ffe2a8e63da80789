"""SCTBench CS/account: a bank account whose checker expects the wrong sum."""

from stressvm import Cell, Kernel, Mutex, scenario

SOURCE = "SCTBench, CS/account_bad (ESBMC's suite); sizes as in PERIOD's copy"


def account_of(k: Kernel, deposited: int) -> None:
    """A checker, a deposit of 2 and a withdrawal of 4 on a balance of 1; `deposited` is what the checker expects of 2."""
    m = Mutex(k, "m")
    balance = Cell(k, 1, "balance")
    deposit_done = Cell(k, value=False, name="deposit_done")
    withdraw_done = Cell(k, value=False, name="withdraw_done")
    i = Cell(k, 0, "i")

    async def check_result() -> None:
        await m.lock()
        if await deposit_done.load() and await withdraw_done.load():
            assert await balance.load() == 1 + deposited - 4, "the balance is not what the checker works out"
        await m.unlock()

    async def deposit() -> None:
        await m.lock()
        await balance.store(await balance.load() + 2)
        await deposit_done.store(value=True)
        await m.unlock()

    async def withdraw() -> None:
        await m.lock()
        await balance.store(await balance.load() - 4)
        await withdraw_done.store(value=True)
        await m.unlock()

    async def main() -> None:
        for number, body in enumerate((check_result, deposit, withdraw)):
            await i.store(number)
            k.spawn(body)

    k.spawn(main)


@scenario(expect="assertion", source=SOURCE)
def account(k: Kernel) -> None:
    """Deposit and withdrawal are done under the lock; the checker subtracts both, so it fails whenever it comes last.

    Published, mean executions to the bug (20 of 20 trials unless said otherwise): SURW 6, URW 3, POS 4, PCT-3 4,
    PCT-10 4, random walk 18.
    """
    account_of(k, -2)


@scenario(source=SOURCE, executions=300)
def account_ok(k: Kernel) -> None:
    """The same with a checker that adds what was deposited."""
    account_of(k, 2)
