"""The command line: parses, dispatches, and turns errors into exit statuses.

Results go to standard output, progress and errors to standard error. Exit status: 0 as declared, 1 a finding, 2 wrong
usage or a bad file, 3 an internal error, 4 nothing selected, 5 a replay diverged, 130 interrupted.
"""

from __future__ import annotations

import argparse
import io
import os
import signal
import sys
import threading
import traceback
from contextlib import suppress
from typing import TYPE_CHECKING, Any, NoReturn

from stressvm._version import __version__
from stressvm.campaign.config import OPTIONS
from stressvm.kernel.errors import ReplayDiverged, StressvmError, UsageError

if TYPE_CHECKING:
    from collections.abc import Sequence

INTERNAL, DIVERGED, INTERRUPTED, CLOSED = 3, 5, 130, 141


class _Parser(argparse.ArgumentParser):
    """argparse exits with 2 on its own; here its errors look like all the others."""

    def error(self, message: str) -> NoReturn:
        """Say what is wrong, and where help is."""
        raise UsageError(f"{message} (see {self.prog} --help)")


class _Option(argparse.Action):
    """Keeps what was given as text; config.resolve reads it, with everything else that could set it."""

    def __call__(
        self, parser: argparse.ArgumentParser, namespace: argparse.Namespace, values: Any, option: str | None = None
    ) -> None:
        """Note the text."""
        del parser, option
        options = dict(getattr(namespace, "options", None) or {})
        options[self.dest] = True if self.nargs == 0 else values
        namespace.options = options


def parser() -> argparse.ArgumentParser:
    """All verbs and options."""
    top = _Parser(prog="stressvm", description="Hunt races, deadlocks and lost wakeups in kernel VM protocols.")
    top.add_argument("--version", action="version", version=f"stressvm {__version__}")
    verbs = top.add_subparsers(dest="verb", metavar="VERB", required=True, parser_class=_Parser)
    _hunt(verbs.add_parser("hunt", help="explore scenarios within a budget"))
    for name, text in (
        ("replay", "run one recorded schedule again"),
        ("shrink", "make a schedule as small as it gets, same finding"),
        ("explain", "swim lane, who waits for whom, which switches matter and why"),
    ):
        _schedule(verbs.add_parser(name, help=text), name)
    listing = verbs.add_parser("list", help="scenarios, parameters, expectations")
    listing.add_argument("paths", nargs="*", metavar="PATH", help="files, folders or names (default: as hunt)")
    _format(listing)
    _import(verbs.add_parser("import", help="a log of a real program becomes a workload"))
    _conform(verbs.add_parser("conform", help="answer recorded vectors, and compare"))
    _merge(verbs.add_parser("merge", help="the results of several shards become one"))
    _study(verbs.add_parser("study", help="sleep and wakeup policies compared on a simulated machine"))
    _bench(
        verbs.add_parser(
            "bench",
            help="the engine's and the map's own speed, and what checks cost; executions to known bugs, and to planted ones",
        )
    )
    return top


def _hunt(verb: argparse.ArgumentParser) -> None:
    verb.add_argument(
        "paths",
        nargs="*",
        metavar="PATH",
        help="files, folders, FILE::NAME or names (default: the shipped scenarios and scenarios/ below this folder)",
    )
    for name, option in OPTIONS.items():
        nargs: Any = {"nargs": 0} if not option.metavar else {"metavar": option.metavar}
        flags = [f"--{name}"] if name != "jobs" else ["-j", "--jobs"]
        verb.add_argument(*flags, dest=name, action=_Option, help=option.help, **nargs)
    verb.set_defaults(options={})
    verb.add_argument("--param", action="append", default=[], metavar="NAME=VALUE", help="set a scenario's parameter")
    verb.add_argument(
        "--resume",
        metavar="DIR",
        help="go on with the campaign of a log folder; it says what and how, -j and --format may",
    )
    _report(verb)


def _schedule(verb: argparse.ArgumentParser, name: str) -> None:
    verb.add_argument(
        "schedule", metavar="FILE|BLOB", help="a finding file, an execution as JSON lines, or stressvm:1:..."
    )
    verb.add_argument("--scenario", metavar="PATH", help="file of the scenario, if it is not among the default ones")
    if name == "replay":
        verb.add_argument("--until", type=_step, metavar="STEP", help="show steps up to this one")
        verb.add_argument("--driver", choices=("stepped", "trio"), default="stepped", help="default: stepped")
    _format(verb)


def _bench(verb: argparse.ArgumentParser) -> None:
    verb.add_argument("what", choices=("engine", "map", "checks", "strategies", "defects"))
    verb.add_argument("--quick", action="store_true", help="fewer rounds or seeds, wider noise")
    verb.add_argument(
        "--peer", metavar="NAME", help="bench engine: what else is to run its programs, `detangle`, installed"
    )
    only = verb.add_argument_group("of bench strategies and bench defects")
    only.add_argument(
        "--program", action="append", default=[], metavar="NAME", help="a published program (default: all)"
    )
    only.add_argument(
        "--strategy",
        action="append",
        default=[],
        metavar="NAME",
        help="a strategy, with its depth as in pct3 (default: all)",
    )
    only.add_argument("--id", action="append", default=[], metavar="ID", help="a planted defect (default: all)")
    only.add_argument(
        "--markdown", action="store_true", help="print the planted defects as the page of the documentation"
    )
    only.add_argument("--seeds", metavar="N", help="hunts for each program and strategy, or defect (default: 20)")
    only.add_argument("--cap", metavar="N", help="executions of each hunt at most (default: 10000)")
    only.add_argument("-j", "--jobs", metavar="N", help="processes, a number or `auto` (default: auto)")
    only.add_argument("--resume", metavar="DIR", help="go on with what was measured into this folder")
    only.add_argument("--logs", metavar="DIR", default="logs", help="folder for the log folder (default: logs)")
    _format(verb)


def _study(verb: argparse.ArgumentParser) -> None:
    verb.add_argument(
        "study", nargs="?", metavar="NAME|FILE.py", help="a shipped study, or your own (default: list them)"
    )
    verb.add_argument("--quick", action="store_true", help="fewer points and replications, wider intervals")
    verb.add_argument("--replications", metavar="N", help="of each point (default: the study's)")
    verb.add_argument("--seed", metavar="S", help="a number or `random` (default: 1)")
    verb.add_argument("-j", "--jobs", metavar="N", help="processes, a number or `auto` (default: auto)")
    verb.add_argument("--logs", metavar="DIR", default="logs", help="folder for the log folder (default: logs)")
    verb.add_argument("--resume", metavar="DIR", help="go on with the study of a log folder")
    verb.add_argument(
        "--trace", metavar="FACTOR=LEVEL,...", help="simulate this point alone, and write down every operation of it"
    )
    verb.add_argument("--replication", metavar="N", help="with --trace: which, from 0 (default: 0)")
    _format(verb)


def _merge(verb: argparse.ArgumentParser) -> None:
    verb.add_argument("folders", nargs="+", metavar="DIR", help="the log folder of each shard")
    verb.add_argument("--logs", metavar="DIR", default="logs", help="folder for the log folder (default: logs)")
    _report(verb)
    _format(verb)


def _report(verb: argparse.ArgumentParser) -> None:
    verb.add_argument("--report", action="append", default=[], metavar="jsonl=FILE", help="also write findings there")


def _step(text: str) -> int:
    """The number of a step, from 0."""
    if not text.isdecimal():
        raise argparse.ArgumentTypeError(f"{text!r} is no step: they are numbered from 0")
    return int(text)


def _import(verb: argparse.ArgumentParser) -> None:
    verb.add_argument("log", metavar="FILE.strace", help="a log of strace -f, plain or gzip")
    verb.add_argument("-o", "--output", metavar="FILE", help="the workload file (default: beside the log, .json.gz)")
    verb.add_argument("--lenient", action="store_true", help="drop a last line that is cut off")
    verb.add_argument("--space", type=int, metavar="N", help="which address space of the log (default: the busiest)")
    _format(verb)


def _conform(verb: argparse.ArgumentParser) -> None:
    verb.add_argument("files", nargs="+", metavar="FILE.jsonl", help="vectors as JSON lines, plain or gzip")
    verb.add_argument(
        "--executions",
        default="2000",
        metavar="N",
        help="of each search of a concurrent program, at most (default: 2000)",
    )
    verb.add_argument("--seed", default="1", metavar="S", help="of random ones, a number or `random` (default: 1)")
    _format(verb)


def _format(verb: argparse.ArgumentParser) -> None:
    verb.add_argument("--format", choices=("human", "json"), default="human", help="default: human")


def _dispatch(args: argparse.Namespace) -> int:
    match args.verb:
        case "hunt":
            from stressvm.commands import hunt

            return hunt.run(args)
        case "replay" | "shrink" | "explain":
            from stressvm.commands import replay

            verbs = {"replay": replay.replay, "shrink": replay.shrink, "explain": replay.explain}
            return verbs[args.verb](args)
        case "list":
            from stressvm.commands import listing

            return listing.run(args)
        case "import":
            from stressvm.commands import importing

            return importing.run(args)
        case "conform":
            from stressvm.commands import conforming

            return conforming.run(args)
        case "merge":
            from stressvm.commands import merging

            return merging.run(args)
        case "study":
            from stressvm.commands import study

            return study.run(args)
        case _:
            from stressvm.commands import bench

            return bench.run(args)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; the exit status."""
    # A name that the terminal cannot show is shown escaped.
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
    if threading.current_thread() is threading.main_thread():
        # Being told to end is like being interrupted: what was found is written.
        signal.signal(signal.SIGTERM, lambda *_: signal.raise_signal(signal.SIGINT))
    try:
        status = _dispatch(parser().parse_args(argv))
        sys.stdout.flush()
    except UsageError as exc:
        sys.stderr.write(f"stressvm: {exc}\n")
        return 2
    except ReplayDiverged as exc:
        sys.stderr.write(f"stressvm: {exc}\n")
        return DIVERGED
    except KeyboardInterrupt:
        sys.stderr.write("stressvm: interrupted\n")
        return INTERRUPTED
    except BrokenPipeError:
        # Whoever read our output has gone; what is left of it must not raise again at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return CLOSED
    except OSError as exc:
        sys.stderr.write(f"stressvm: {exc.filename or 'the output'} cannot be written: {exc.strerror or exc}\n")
        with suppress(OSError):
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 2
    except (Exception, BaseExceptionGroup) as exc:  # noqa: BLE001 - whatever it is, it is reported as ours
        if isinstance(exc, BaseExceptionGroup) and exc.split(KeyboardInterrupt)[1] is None:
            sys.stderr.write("stressvm: interrupted\n")
            return INTERRUPTED
        what = str(exc) if isinstance(exc, StressvmError) else "".join(traceback.format_exception(exc))
        sys.stderr.write(f"stressvm: an internal error, which is ours; please report it:\n{what}\n")
        return INTERNAL
    return status
