"""The first problem of readers and writers: readers who never wait for a waiting writer."""

from stressvm import Fifo, Kernel, Mutex, Semaphore, scenario

SOURCE = "Courtois, Heymans and Parnas, Communications of the ACM, 1971"


def room_shared(k: Kernel, readers: int, visits: int, *, turnstile: bool) -> None:
    """The first reader takes the room, the last one gives it back; with a turnstile, newcomers queue behind the writer.

    The writer may be overtaken by as many readers as there are: those that were before it in the queue. More of them is
    starvation, of which nothing but the number of visits is the end.
    """
    gate = Mutex(k, "gate", grant=Fifo())
    counting = Mutex(k, "counting")
    room = Semaphore(k, 1, "room")
    inside = 0
    overtaken = 0

    def writer_waits() -> bool:
        return "writer" in (gate.statistics().waiters if turnstile else room.statistics().waiters)

    async def reader() -> None:
        nonlocal inside, overtaken
        for _ in range(visits):
            if turnstile:
                await gate.lock()
                await gate.unlock()
            await counting.lock()
            inside += 1
            if inside == 1:
                await room.wait()
            overtaken += writer_waits()
            await counting.unlock()
            await counting.lock()
            inside -= 1
            if inside == 0:
                await room.post()
            await counting.unlock()

    async def writer() -> None:
        if turnstile:
            await gate.lock()
        await room.wait()
        assert overtaken <= readers, f"{overtaken} visits of {readers} readers overtook the writer"
        await room.post()
        if turnstile:
            await gate.unlock()

    for _ in range(readers):
        k.spawn(reader)
    k.spawn(writer, name="writer")


@scenario(expect="assertion", source=SOURCE)
def starved_writer(k: Kernel, readers: int = 2, visits: int = 3) -> None:
    """As long as there is always a reader inside, the writer waits: each of them overtakes it again and again."""
    room_shared(k, readers, visits, turnstile=False)


@scenario(source=SOURCE, executions=200)
def starved_writer_ok(k: Kernel, readers: int = 2, visits: int = 3) -> None:
    """With a turnstile that is handed over in order of arrival, each reader can overtake the writer once at most."""
    room_shared(k, readers, visits, turnstile=True)
