from __future__ import annotations

import asyncio
import gc
import logging
import weakref

import pytest

from proxy.errors import BadUpstream
from proxy.tasks import spawn


async def test_spawn_result_comes_back_under_the_given_name() -> None:
    async def work() -> int:
        return 7

    task = spawn(work(), name="seven")
    assert task.get_name() == "seven"
    assert await task == 7


async def test_spawn_task_nobody_holds_runs_to_its_end() -> None:
    started, go, ended = asyncio.Event(), asyncio.Event(), asyncio.Event()

    async def work() -> None:
        started.set()
        await go.wait()
        ended.set()

    task = weakref.ref(spawn(work(), name="held"))
    await started.wait()
    gc.collect()
    assert task() is not None
    go.set()
    await ended.wait()


async def test_spawn_failure_is_logged_once_with_the_name(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async def work() -> None:
        raise ValueError("why")

    task = spawn(work(), name="doomed")
    await asyncio.wait([task])
    assert [record.getMessage() for record in caplog.records] == [
        "background task failed task=doomed error=ValueError('why')"
    ]
    assert caplog.records[0].levelno == logging.ERROR


async def test_spawn_cancelled_task_is_no_failure(caplog: pytest.LogCaptureFixture) -> None:
    task = spawn(asyncio.Event().wait(), name="cancelled")
    task.cancel()
    await asyncio.wait([task])
    assert caplog.records == []


async def test_spawn_named_failure_is_the_answer_of_who_awaits_it(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async def refused() -> None:
        raise BadUpstream("no")

    with pytest.raises(BadUpstream):
        await spawn(refused(), name="refused")
    assert caplog.records == []
