"""Background tasks: named, referenced until they end, and loud when they fail."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Coroutine
from typing import TypeVar

from proxy.errors import ProxyError

logger = logging.getLogger(__name__)

T = TypeVar("T")

_running: set[asyncio.Task[object]] = set()


def spawn(coroutine: Coroutine[object, None, T], *, name: str) -> asyncio.Task[T]:
    """Start a task that asyncio cannot collect while it runs; the caller owns and ends it.

    A failure that has no name of ours is logged once, when the task ends; a ``ProxyError`` is an
    answer on its way to whoever awaits the task.
    """
    task = asyncio.get_running_loop().create_task(coroutine, name=name)
    _running.add(task)
    task.add_done_callback(_ended)
    return task


def _ended(task: asyncio.Task[object]) -> None:
    _running.discard(task)
    error = None if task.cancelled() else task.exception()
    if error is not None and not isinstance(error, ProxyError):
        logger.error("background task failed task=%s error=%r", task.get_name(), error)
