"""An execution as JSON lines: a header, one record a step, a summary. A file without its summary was cut short.

structlog renders the records, through orjson; it is bound to the file alone, and no global configuration is touched.
"""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, BinaryIO

import orjson
import structlog

from stressvm._version import __version__
from stressvm.kernel.errors import UsageError
from stressvm.report.facts import post_mortem_facts

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from stressvm.explore.execution import Recording


def logger_to(file: BinaryIO) -> structlog.typing.FilteringBoundLogger:
    """A structlog logger that writes one JSON object a line to a binary file."""
    logger: structlog.typing.FilteringBoundLogger = structlog.wrap_logger(
        structlog.BytesLogger(file),
        processors=[_type_first, structlog.processors.JSONRenderer(serializer=orjson.dumps)],
        wrapper_class=structlog.make_filtering_bound_logger(0),
    )
    return logger


def _type_first(_logger: object, _method: str, event: structlog.typing.EventDict) -> structlog.typing.EventDict:
    """The kind of record is its first key, `type`."""
    return {"type": event.pop("event"), **event}


def write_execution(file: BinaryIO, recording: Recording, blob: str) -> None:
    """Write one execution to an open file."""
    log = logger_to(file)
    names = recording.names()
    scenario = recording.subject.scenario
    log.info(
        "header",
        format="stressvm-execution:1",
        version=__version__,
        scenario=scenario.name,
        params=dict(recording.subject.params),
        threads=list(names),
        schedule=blob,
    )
    for record in recording.records:
        log.info(
            "step",
            step=record.step,
            tick=record.tick,
            thread=names[record.thread] if record.thread >= 0 else None,
            op=record.kind,
            object=record.obj or None,
            arg=record.arg,
            preempted=record.preempted,
        )
    verdict = recording.verdict
    log.info(
        "summary",
        steps=len(recording.records),
        preemptions=recording.preemptions,
        verdict=verdict.kind if verdict is not None else None,
        text=verdict.text if verdict is not None else None,
        fingerprint=verdict.fingerprint if verdict is not None else None,
        digest=recording.digests[-1],
        threads=[thread_facts(recording, number) for number in range(len(recording.threads))],
        places=place_facts(recording),
        also=also_facts(recording),
        **post_mortem_facts(recording),
    )


def place_facts(recording: Recording) -> list[dict[str, Any]]:
    """Where threads were at the steps that the verdict names, in plain values."""
    names = recording.names()
    return [
        {
            "step": place.step,
            "thread": names[place.thread],
            "what": place.what,
            "stack": [str(frame) for frame in place.stack if not frame.ours],
        }
        for place in recording.shown()
    ]


def also_facts(recording: Recording) -> list[dict[str, Any]]:
    """Other bugs that the execution shows, in plain values."""
    verdict = recording.verdict
    others = verdict.also if verdict is not None else ()
    return [{"kind": other.kind, "text": other.text, "fingerprint": other.fingerprint} for other in others]


def thread_facts(recording: Recording, number: int) -> dict[str, Any]:
    """How one thread ended, in plain values."""
    thread = recording.threads[number]
    return {
        "name": thread.name,
        "state": thread.state,
        "wmesg": thread.wmesg or None,
        "satisfied_since_step": thread.since,
        "stack": [str(frame) for frame in thread.stack if not frame.ours],
    }


@contextmanager
def created(path: Path, option: str = "--logs") -> Iterator[BinaryIO]:
    """A new file to write to; UsageError, with the option that would help, where none can be made."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        file = path.open("wb")
    except OSError as exc:
        raise UsageError(
            f"{path}: cannot be written: {exc.strerror or exc}; choose another place with {option}"
        ) from None
    with file:
        yield file
