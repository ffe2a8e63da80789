"""Dijkstra's philosophers, hungry all at once."""

from stressvm import Kernel, Mutex, scenario

SOURCE = "E. W. Dijkstra, 1965; C. A. R. Hoare's telling"


def table(k: Kernel, philosophers: int, meals: int, *, ordered: bool) -> None:
    """Each takes two forks: left and right, or the lower number first."""
    forks = [Mutex(k, f"fork{number}") for number in range(philosophers)]

    async def philosopher(number: int) -> None:
        left, right = number, (number + 1) % philosophers
        if ordered:
            left, right = min(left, right), max(left, right)
        for _ in range(meals):
            await forks[left].lock()
            await forks[right].lock()
            await forks[right].unlock()
            await forks[left].unlock()

    for number in range(philosophers):
        k.spawn(philosopher, number, name=f"philosopher{number}")


@scenario(expect="deadlock", source=SOURCE)
def dining_philosophers(k: Kernel, philosophers: int = 3, meals: int = 1) -> None:
    """Everybody has the left fork, and waits for the right one: a cycle through all of them."""
    table(k, philosophers, meals, ordered=False)


@scenario(source=SOURCE, executions=300)
def dining_philosophers_ordered(k: Kernel, philosophers: int = 3, meals: int = 1) -> None:
    """The forks have an order, and no cycle can close."""
    table(k, philosophers, meals, ordered=True)
