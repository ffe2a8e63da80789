"""Threads that each pass some sections under one lock: the space whose size is known in closed form."""

from stressvm import Kernel, Mutex, scenario


class Counter:
    """A plain attribute, which only the lock protects."""

    n = 0


@scenario(source="the standard exercise of the field; n threads of k sections have (nk)!/(k!)^n lock orders")
def locked_sections(k: Kernel, threads: int = 3, sections: int = 3) -> None:
    """Every order of the sections is possible, and in none is an increment lost."""
    m = Mutex(k, "m")
    counter = Counter()

    async def work() -> None:
        for _ in range(sections):
            await m.lock()
            counter.n += 1
            await m.unlock()

    for _ in range(threads):
        k.spawn(work)
