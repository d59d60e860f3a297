"""GET /healthz and /metrics: for supervisors; neither asks the controller."""

from __future__ import annotations

from aiohttp import web

from gateway.answers import HealthAnswer
from gateway.controller import Controller
from gateway.endpoints import Endpoint
from gateway.metrics import CONTENT_TYPE, Metrics
from services.contract.limits import VERSION


class HealthRoutes:
    def __init__(self, controller: Controller, metrics: Metrics) -> None:
        self._controller = controller
        self._metrics = metrics

    def endpoints(self) -> list[Endpoint]:
        return [
            Endpoint("GET", "/healthz", self.health, "Whether the gateway lives", HealthAnswer, session=False),
            Endpoint("GET", "/metrics", self.metrics, "Prometheus metrics", ("text/plain",), session=False),
        ]

    async def health(self, _request: web.Request) -> web.Response:
        answer: HealthAnswer = {
            "status": "ok",
            "controllerConnected": self._controller.connected,
            "version": VERSION,
        }
        return web.json_response(answer)

    async def metrics(self, _request: web.Request) -> web.Response:
        return web.Response(body=self._metrics.text(), headers={"Content-Type": CONTENT_TYPE})
