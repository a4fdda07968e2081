"""One task, here and now, for its author: in this process, so that a debugger and `print` work as they do anywhere.

What the code prints goes to stderr; the result alone goes to stdout.
"""

import argparse
import asyncio
import json
import os
import signal
import sys
import time
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from types import FrameType
from typing import Any

from only_post_svc import registry
from only_post_svc.models.tasks import TASK_REQUEST
from only_post_svc.queue import NewTask
from only_post_svc.registry import Context, DefinitionError, Fail, Handler, Retry
from only_post_svc.settings import Settings
from only_post_svc.task_types import Types
from shared import ids
from shared.bodies import parse_json
from shared.cli.terminal import Failure, bar
from shared.errors import BadRequest
from shared.strict_json import encode

STDIN = "-"


class Overrun(BaseException):
    """Raised in a handler at its timeout."""


def payload(text: str) -> Any:
    """An argument: JSON, or `-` for JSON on stdin."""
    try:
        return parse_json(sys.stdin.buffer.read() if text == STDIN else text.encode(errors="surrogateescape"))
    except BadRequest as error:
        raise argparse.ArgumentTypeError(error.detail) from None


def run(settings: Settings, options: argparse.Namespace) -> None:
    """Raises Failure unless the task succeeds, and Invalid for a payload that it does not take."""
    with _stdout_aside() as answer_to:
        try:
            registry.load([registry.BUILTIN, options.module])
        except DefinitionError as error:
            raise Failure(str(error)) from error
        handler, new = _checked(options)
        result = _result_of(handler, new, options)
        if len(result) > settings.max_body_bytes:
            raise Failure(f"result_too_large: {len(result)} bytes; the limit is {settings.max_body_bytes}")
        os.write(answer_to, result + b"\n")


@contextmanager
def _stdout_aside() -> Iterator[int]:
    sys.stdout.flush()
    ours = os.dup(1)
    os.dup2(2, 1)
    try:
        yield ours
    finally:
        sys.stdout.flush()
        os.dup2(ours, 1)
        os.close(ours)


def _checked(options: argparse.Namespace) -> tuple[Handler, NewTask]:
    """The handler, and the task as a submit would have made it."""
    types = {name: handler.task_type for name, handler in registry.handlers.items()}
    if options.type not in types:
        raise Failure(f"there is no task {options.type}; there are {', '.join(sorted(types))}")
    if types[options.type].elsewhere:
        raise Failure(f"the code of {options.type} runs elsewhere: claim it with /api/claim")
    offered = Types(types)
    request = TASK_REQUEST.parse({"type": options.type, "payload": options.payload}, offered.faults)
    return registry.handlers[options.type], offered.new_task(request)


def _result_of(handler: Handler, new: NewTask, options: argparse.Namespace) -> bytes:
    seconds = options.timeout or handler.task_type.timeout
    with _progress() as report:
        deadline = datetime.fromtimestamp(time.time() + seconds, UTC)
        context = Context(ids.new(), options.attempt, deadline, report)
        try:
            value = _call(handler, new, context, seconds)
        except (Overrun, TimeoutError):
            raise Failure(f"timeout: after {seconds:g} s") from None
        except Retry as retry:
            when = "later" if retry.after is None else f"in {retry.after:g} s"
            raise Failure(f"task_error: Retry: {retry} (to be tried again {when})") from None
        except Fail as fail:
            raise Failure(f"task_error: Fail: {fail}") from None
        except Exception as error:
            traceback.print_exception(error)
            raise Failure(f"task_error: {type(error).__name__}: {error}") from None
    try:
        return encode(value).encode()
    except Exception as error:
        raise Failure(f"invalid_result: {type(error).__name__}: {error}") from None


def _call(handler: Handler, new: NewTask, context: Context, seconds: float) -> Any:
    arguments = json.loads(new.payload)
    if handler.task_type.is_async:
        return asyncio.run(asyncio.wait_for(handler.call(arguments, context), seconds))
    signal.signal(signal.SIGALRM, _overrun)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        return handler.call(arguments, context)
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)


def _overrun(number: int, frame: FrameType | None) -> None:
    raise Overrun


@contextmanager
def _progress() -> Iterator[Any]:
    with bar("running") as show:

        def report(fraction: float, message: str) -> None:
            show(int(fraction * 1000), 1000)
            if not sys.stderr.isatty():
                print(f"{fraction:.0%} {message}".rstrip(), file=sys.stderr)

        yield report
