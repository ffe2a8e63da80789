"""SCTBench CB/stringbuffer-jdk1.4: appending a buffer that is erased meanwhile."""

from __future__ import annotations

from stressvm import Cell, Kernel, Mutex, scenario

SOURCE = "SCTBench, CB/stringbuffer-jdk1.4 (Flanagan and Qadeer, 2003); threads as in PERIOD's copy"


class StringBuffer:
    """A synchronized buffer of characters: each call holds its lock, and no longer."""

    def __init__(self, k: Kernel, name: str, text: str = "") -> None:
        self.lock = Mutex(k, f"{name}.lock")
        self.count = Cell(k, len(text), f"{name}.count")
        self.text = text

    async def length(self) -> int:
        """How many characters."""
        await self.lock.lock()
        count = await self.count.load()
        await self.lock.unlock()
        return count

    async def get_chars(self, end: int) -> str:
        """The first `end` characters; an assertion fails if there are fewer."""
        await self.lock.lock()
        assert end <= await self.count.load(), "the end is out of range"
        text = self.text[:end]
        await self.lock.unlock()
        return text

    async def erase(self, end: int) -> None:
        """Take the first characters away."""
        await self.lock.lock()
        self.text = self.text[end:]
        await self.count.store(max(0, await self.count.load() - end))
        await self.lock.unlock()

    async def append(self, text: str) -> None:
        """Add characters."""
        await self.lock.lock()
        self.text += text
        await self.count.store(await self.count.load() + len(text))
        await self.lock.unlock()

    async def append_buffer(self, other: StringBuffer) -> None:
        """Add what another buffer has: its length in one call, its characters in the next."""
        await self.lock.lock()
        text = await other.get_chars(await other.length())
        self.text += text
        await self.count.store(await self.count.load() + len(text))
        await self.lock.unlock()


class AtOnce(StringBuffer):
    """The append mended: the other buffer stays locked from one call to the next."""

    async def append_buffer(self, other: StringBuffer) -> None:
        """Length and characters in one section."""
        await self.lock.lock()
        await other.lock.lock()
        text = other.text[: await other.count.load()]
        await other.lock.unlock()
        self.text += text
        await self.count.store(await self.count.load() + len(text))
        await self.lock.unlock()


def append_while_erased(k: Kernel, cls: type[StringBuffer]) -> None:
    """One thread erases and refills a buffer, another appends it to a new one."""
    buffer = cls(k, "buffer", "abc")
    i = Cell(k, 0, "i")

    async def change() -> None:
        await buffer.erase(3)
        await buffer.append("abc")

    async def copy() -> None:
        await cls(k, "copy").append_buffer(buffer)

    async def main() -> None:
        for number, body in enumerate((change, copy)):
            await i.store(number)
            k.spawn(body)

    k.spawn(main)


@scenario(expect="assertion", source=SOURCE)
def stringbuffer(k: Kernel) -> None:
    """Both calls are atomic and the pair is not: the length is stale when the characters are asked for.

    Published, mean executions to the bug (20 of 20 trials unless said otherwise): SURW 8, URW 834, POS 23, PCT-3 281,
    PCT-10 26, random walk 2,243 (19 of 20).
    """
    append_while_erased(k, StringBuffer)


@scenario(source=SOURCE, executions=200)
def stringbuffer_ok(k: Kernel) -> None:
    """The same with an append that locks both."""
    append_while_erased(k, AtOnce)
