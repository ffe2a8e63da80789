"""Treiber's stack with nodes that are used again: a compare-and-swap that compares too little."""

from stressvm import Atomic, Kernel, scenario

SOURCE = "R. K. Treiber, IBM, 1986; the ABA problem of the IBM System/370 manual"
#: What one count of the tag adds to the word that holds index and tag.
TAG = 16
NONE = TAG - 1


def reuse(k: Kernel, *, tagged: bool) -> None:
    """One thread pops twice; the other pops two nodes and pushes the first of them back. Node 0 is on top of 1 and 2.

    `owner` is what the threads know for themselves: a node that is popped belongs to nobody else.
    """
    top = Atomic(k, 0, "top")
    following = [Atomic(k, link, f"next{index}") for index, link in enumerate((1, 2, NONE))]
    owner = [-1, -1, -1]

    async def pop(me: int) -> int:
        while True:
            word = await top.load()
            node = word % TAG
            if node == NONE:
                return NONE
            link = await following[node].load()
            tag = word // TAG + 1 if tagged else 0
            if await top.cas(word, tag * TAG + link):
                assert owner[node] < 0, f"node {node} is popped, and belongs to thread {owner[node]}"
                owner[node] = me
                return node

    async def push(node: int) -> None:
        owner[node] = -1
        while True:
            word = await top.load()
            await following[node].store(word % TAG)
            tag = word // TAG + 1 if tagged else 0
            if await top.cas(word, tag * TAG + node):
                return

    async def slow() -> None:
        await pop(0)
        await pop(0)

    async def quick() -> None:
        first = await pop(1)
        await pop(1)
        if first != NONE:
            await push(first)

    k.spawn(slow)
    k.spawn(quick)


@scenario(expect="assertion", source=SOURCE)
def aba_stack(k: Kernel) -> None:
    """The top is what it was, so the swap succeeds; the node below it is not, and is popped a second time."""
    reuse(k, tagged=False)


@scenario(source=SOURCE, executions=300)
def aba_stack_tagged(k: Kernel) -> None:
    """A count beside the index, moved by every swap, makes the stale one fail."""
    reuse(k, tagged=True)
