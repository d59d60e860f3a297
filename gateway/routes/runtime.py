"""GET /api/runtime: the controller, its workers and its queue. Needs no session, tells no secret."""

from __future__ import annotations

from aiohttp import web

from gateway import wire
from gateway.answers import RuntimeAnswer
from gateway.controller import Controller
from gateway.endpoints import Endpoint
from services.contract.errors import Reason


class RuntimeRoutes:
    def __init__(self, controller: Controller) -> None:
        self._controller = controller

    def endpoints(self) -> list[Endpoint]:
        return [
            Endpoint(
                "GET",
                "/api/runtime",
                self.show,
                "How the controller, its queue and its workers are",
                RuntimeAnswer,
                session=False,
                errors=(Reason.CONTROLLER_UNREACHABLE,),
            )
        ]

    async def show(self, _request: web.Request) -> web.Response:
        return web.json_response(wire.runtime_answer(await self._controller.runtime()))
