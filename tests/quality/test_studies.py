"""Studies measure what theory says exactly, and say the same again for the same seed."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from stressvm import UsageError
from stressvm.study.draws import Exponential, stream
from stressvm.study.experiment import measured, server
from stressvm.study.logged import Logged
from stressvm.study.policies import HandOver, WakeAll, WakeFirst, WakeLast
from stressvm.study.presets import PRESETS, preset
from stressvm.study.spaces import FreeBSDSpace, NetBSDSpace
from stressvm.study.studies import backoff, exec_storm, herd, recheck, who_is_woken, writers
from stressvm.study.wait_maps import waiting
from stressvm.study.workloads import (
    MICROSECOND,
    MILLISECOND,
    SECOND,
    AtOnce,
    Client,
    Closed,
    Mode,
    Open,
    Poisson,
    Request,
    Together,
    interrupts,
)
from stressvm.vm import freebsd, netbsd

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from stressvm.study.policies import WakePolicy
    from stressvm.study.sample import Sample
    from stressvm.study.study import Study

ONE_CPU = server(1)


class Herd:
    """One client has the only page for a while; so many others ask for it meanwhile, and keep it for longer than all that."""

    def __init__(self, waiters: int) -> None:
        self.waiters = waiters

    def plan(self, _seed: int, /) -> tuple[Client, ...]:
        """The first gives back after 50 ms, whoever is next after a second."""
        first = Client("first", 0, (Request(0, 1, 50 * MILLISECOND),))
        rest = (Client(f"w{i}", MILLISECOND * (i + 1), (Request(0, 1, SECOND),)) for i in range(self.waiters))
        return (first, *rest)


def one_free(waiters: int, wake: Callable[[], WakePolicy] | None) -> Sample:
    """The herd, up to a moment after the page was given back once; without a policy as FreeBSD has it."""
    cls = None if wake is None else waiting(freebsd.VmMap13, wake)
    return measured(lambda k: FreeBSDSpace(k, 1, cls=cls), Herd(waiters), machine=ONE_CPU, until=SECOND // 2, seed=1)


@pytest.mark.parametrize("waiters", [1, 2, 7, 40])
@pytest.mark.parametrize("wake", [None, WakeAll])
def test_wake_all_wastes_all_but_one(waiters: int, wake: Callable[[], WakePolicy] | None) -> None:
    """N sleepers are woken for one page: one gets it, and N - 1 were woken for nothing."""
    measures = one_free(waiters, wake).measures
    assert measures["wakeups"] == waiters
    assert measures["wasted_wakeups"] == waiters - 1
    assert measures["unserved"] == waiters - 1


@pytest.mark.parametrize("wake", [WakeFirst, WakeLast, HandOver])
def test_waking_one_wastes_none(wake: Callable[[], WakePolicy]) -> None:
    """The one that is woken gets it; only waking the last overtakes."""
    measures = one_free(7, wake).measures
    assert (measures["wakeups"], measures["wasted_wakeups"], measures["unserved"]) == (1, 0, 6)
    assert measures["overtakes"] == (6 if wake is WakeLast else 0)


@pytest.mark.parametrize("seed", range(3))
def test_hand_off_never_overtakes(seed: int) -> None:
    """Requests of one size are served in order if the range is handed over, on one CPU and on four; woken all, they are not."""
    workload = Closed(24, holds=Exponential(200 * MICROSECOND), think=Exponential(100 * MICROSECOND), rounds=6)

    def overtakes(wake: Callable[[], WakePolicy], cpus: int) -> float:
        cls = waiting(freebsd.VmMap13, wake)
        sample = measured(
            lambda k: FreeBSDSpace(k, 4, cls=cls), workload, machine=server(cpus), until=SECOND, seed=seed
        )
        assert sample.measures["unserved"] == 0
        assert sum(sample.histograms["wait"].values()) == 24 * 6
        return sample.measures["overtakes"]

    assert overtakes(HandOver, 1) == overtakes(HandOver, 4) == 0
    assert overtakes(WakeAll, 4) > 0


def test_waits_add_up() -> None:
    """Three ask at once for one page, and keep it for 10 ms each: they wait 0, 10 and 20 ms, but for what things cost."""
    workload = Open(AtOnce(), holds=10 * MILLISECOND, requests=3)
    sample = measured(lambda k: FreeBSDSpace(k, 1), workload, machine=ONE_CPU, until=SECOND, seed=1)
    measures = sample.measures
    assert measures["wait_max"] == pytest.approx(20 * MILLISECOND, rel=0.01)
    assert measures["wait_mean"] == pytest.approx(10 * MILLISECOND, rel=0.01)
    assert measures["wait_p50"] == pytest.approx(10 * MILLISECOND, rel=0.04)
    waiting_now = [value for at, value in sample.series["waiters"] if 12 * MILLISECOND < at < 18 * MILLISECOND]
    assert set(waiting_now) == {1.0}
    assert {value for at, value in sample.series["free"] if at < 29 * MILLISECOND and at > MILLISECOND} <= {0.0, 1.0}


def test_who_does_not_wait_fails() -> None:
    """Interrupt handlers and CANFAIL callers find a full map, and are counted apart; nothing is left at the end."""
    workload = Together(
        (
            Open(AtOnce(), holds=5 * MILLISECOND, requests=2, name="keep"),
            interrupts(100 * MICROSECOND, 30, holds=10 * MICROSECOND),
            Open(Poisson(200 * MICROSECOND), requests=15, mode=Mode.CANFAIL, name="try"),
        )
    )
    sample = measured(
        lambda k: NetBSDSpace(k, 2, version="5.2", intrsafe=True), workload, machine=ONE_CPU, until=SECOND, seed=4
    )
    measures = sample.measures
    served = sum(sample.histograms["wait"].values())
    assert measures["nowait_failures"] > 10
    assert measures["canfail_failures"] > 5
    assert served + measures["nowait_failures"] + measures["canfail_failures"] == 47


def test_freebsd_always_waits() -> None:
    """Its map has no way to fail, which is the user's mistake to ask for."""
    workload = Open(AtOnce(), requests=1, mode=Mode.CANFAIL)
    with pytest.raises(UsageError, match="kmap_alloc_wait always waits"):
        measured(lambda k: FreeBSDSpace(k, 1), workload, machine=ONE_CPU, until=SECOND, seed=1)


@pytest.mark.parametrize("name", PRESETS)
def test_presets_serve_all(name: str) -> None:
    """All systems serve a small storm wholly, and give all back."""
    system = preset(name)
    workload = Open(AtOnce(spread=MILLISECOND), 64, Exponential(MILLISECOND), 20)
    sample = measured(
        lambda k: system.space(k, pages=6 * 64, cpus=1), workload, machine=system.machine(1), until=20 * SECOND, seed=2
    )
    assert sum(sample.histograms["wait"].values()) == 20
    assert sample.measures["unserved"] == 0


def test_no_such_preset() -> None:
    """The message says which there are."""
    with pytest.raises(UsageError, match="netbsd-6"):
        preset("plan9")


#: A point of each study that takes some tenths of a second.
SMALL: list[tuple[Study, dict[str, str | int | float]]] = [
    (herd.STUDY, {"wake": "all", "waiters": 4, "cpus": 4}),
    (who_is_woken.STUDY, {"wake": "fitting", "measured": "large", "load %": 80}),
    (recheck.STUDY, {"recheck": "100 ms", "silent %": 20, "pause s": 10}),
    (writers.STUDY, {"grant": "fifo", "measured": "writer", "readers": 8}),
    (backoff.STUDY, {"backoff": "fixed 2 us", "threads": 4, "locks": "sleeping"}),
    (exec_storm.STUDY, {"system": "netbsd-6", "processes": 16, "cpus": 4}),
]


@pytest.mark.parametrize(("study", "point"), SMALL, ids=lambda value: getattr(value, "name", ""))
def test_the_same_seed_says_the_same(study: Study, point: dict[str, str | int | float]) -> None:
    """Sample for sample; another seed says something else. Every level of the point is one of the study's."""
    assert point.keys() == study.factors.keys()
    assert all(point[factor] in levels for factor, levels in study.factors.items())
    sample = study.simulate(point, 5)
    assert sample == study.simulate(point, 5)
    assert sample != study.simulate(point, 6)
    assert sample.measures["throughput"] > 0
    assert {measure for _, measure in study.compare} <= sample.measures.keys()
    assert {factor for factor, _ in study.compare} <= study.factors.keys()


def test_the_herd_is_what_costs() -> None:
    """Many wakeups for each success if all are woken, one if one is; the same requests are served."""
    point = {"waiters": 16, "cpus": 4}
    every, first = (herd.STUDY.simulate({"wake": wake, **point}, 1).measures for wake in ("all", "first"))
    assert every["wakeups_per_success"] > 5 * first["wakeups_per_success"]
    assert every["switches"] > 3 * first["switches"]


def test_the_recheck_saves_who_is_not_woken() -> None:
    """With frees that wake nobody, nobody waits longer than a second and what it keeps others; without it they do."""
    point = {"silent %": 20, "pause s": 10}
    none, second = (recheck.STUDY.simulate({"recheck": when, **point}, 1).measures for when in ("none", "1 s"))
    assert second["wait_max"] < 2 * SECOND < none["wait_max"]


def test_a_log_runs(tmp_path: Path) -> None:
    """A log of strace is a workload like any other."""
    log = tmp_path / "two.strace"
    log.write_text(
        "1 mmap(NULL, 8192, PROT_READ, MAP_PRIVATE|MAP_ANONYMOUS, -1, 0) = 0x7f0000000000\n"
        "1 mmap(NULL, 4096, PROT_READ, MAP_PRIVATE|MAP_ANONYMOUS, -1, 0) = 0x7f0000010000\n"
        "1 munmap(0x7f0000000000, 8192) = 0\n"
        "1 mmap(NULL, 4096, PROT_READ, MAP_PRIVATE|MAP_ANONYMOUS, -1, 0) = 0x7f0000020000\n"
        "1 munmap(0x7f0000010000, 4096) = 0\n"
    )
    sample = measured(lambda k: NetBSDSpace(k, 2), Logged(log), machine=ONE_CPU, until=SECOND, seed=1)
    assert sum(sample.histograms["wait"].values()) == 3
    assert sample.measures["wait_max"] > 10 * MICROSECOND


def test_a_workload_of_ones_own() -> None:
    """Arrivals and a workload written here run like those that come with stressvm."""

    class Twice:
        def times(self, _rng: object, count: int, /) -> list[int]:
            return [i // 2 * MILLISECOND for i in range(count)]

    sample = measured(
        lambda k: NetBSDSpace(k, 1, cls=waiting(netbsd.VmMap, WakeFirst)),
        Open(Twice(), holds=100 * MICROSECOND, requests=10),
        machine=ONE_CPU,
        until=SECOND,
        seed=1,
    )
    assert sample.measures["wasted_wakeups"] == 0
    assert stream(1, "x").random() == stream(1, "x").random()
    assert sample.measures["wakeups"] == 5
