"""Double-checked initialization: the second look is under the lock, the first one is not."""

from stressvm import Atomic, Cell, Kernel, Mutex, scenario

SOURCE = "text-book; the 'Double-Checked Locking is Broken' declaration, with the stores in the order that breaks it"


def initialize(k: Kernel, threads: int, *, published_last: bool) -> None:
    """Whoever comes first makes the object: a field and a word that says that it is there, in one order or the other."""
    lock = Mutex(k, "lock")
    # Looked at without the lock: what is wrong here is the order of the stores, not that word.
    made = Atomic(k, value=False, name="made")
    field = Cell(k, 0, "field")

    async def use() -> None:
        if not await made.load():
            await lock.lock()
            if not await made.load():
                if published_last:
                    await field.store(42)
                    await made.store(value=True)
                else:
                    await made.store(value=True)
                    await field.store(42)
            await lock.unlock()
        assert await field.load() == 42, "the object is half made"

    for _ in range(threads):
        k.spawn(use)


@scenario(expect="assertion", source=SOURCE)
def double_checked(k: Kernel, threads: int = 2) -> None:
    """Published before it is finished: a thread that takes no lock sees a half-made object."""
    initialize(k, threads, published_last=False)


@scenario(source=SOURCE, executions=300)
def double_checked_ok(k: Kernel, threads: int = 2) -> None:
    """Published when it is finished (and memory is sequentially consistent here)."""
    initialize(k, threads, published_last=True)
