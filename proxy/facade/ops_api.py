"""For the operator: is the process up, can it serve, what does it count."""

from __future__ import annotations

from aiohttp import web

from proxy.facade.caching import NOT_STORED
from proxy.facade.client import expect
from proxy.facade.trace import trace_of
from proxy.metrics import Metrics


class OpsApi:
    """``/livez``, ``/readyz`` and, where switched on, ``/metrics``."""

    def __init__(self, metrics: Metrics, *, expose_metrics: bool) -> None:
        self._metrics = metrics
        self._expose_metrics = expose_metrics

    def routes(self) -> list[web.RouteDef]:
        """The routes of this facade."""
        routes = [
            web.get("/livez", self.livez, expect_handler=expect),
            web.get("/readyz", self.readyz, expect_handler=expect),
        ]
        if self._expose_metrics:
            routes.append(web.get("/metrics", self.metrics, expect_handler=expect))
        return routes

    async def livez(self, request: web.Request) -> web.Response:
        """The process answers."""
        trace_of(request).route = "/livez"
        return web.Response(text="ok\n", headers=NOT_STORED)

    async def readyz(self, request: web.Request) -> web.Response:
        """New requests are welcome; ``degraded`` when an upstream cannot be reached.

        That is no reason to send them elsewhere: other upstreams answer, and no other replica
        reaches it either. Which one it is stays between the operator and ``/metrics``. A proxy that
        drains no longer accepts the connection this would come on.
        """
        trace_of(request).route = "/readyz"
        text = "degraded\n" if self._metrics.is_degraded else "ready\n"
        return web.Response(text=text, headers=NOT_STORED)

    async def metrics(self, request: web.Request) -> web.Response:
        """All counters."""
        trace_of(request).route = "/metrics"
        return web.Response(
            body=self._metrics.render(),
            headers={"Content-Type": self._metrics.content_type, **NOT_STORED},
        )
