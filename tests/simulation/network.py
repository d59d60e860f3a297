"""A network that delays, breaks, swallows and repeats, under the generated gRPC stubs.

Channels and calls behave as those of grpc.aio: a call that its own side canceled raises CancelledError, one that broke
AioRpcError. Within a stream messages keep their order; between streams there is none. While a road is closed its
messages wait, as TCP's do, and come once it is open again, unless the connection broke meanwhile.
"""

from __future__ import annotations

import asyncio
import itertools
from collections import deque
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from random import Random
from typing import Any

import grpc
from grpc.aio import EOF, AioRpcError, Metadata

from services.contract.errors import Reason, ServiceError
from services.contract.metadata import ERROR_DETAILS
from services.runtime.errors import status_of
from tests.simulation.process import CURRENT, Process

KEEPALIVE_SECONDS = (5.0, 11.0)
"""How long a connection over a closed road lives."""

CONNECT_SECONDS = 5.0
"""How long opening a connection over a closed road takes to fail."""

LONGEST_DELAY = 5.0
"""Of one message; what is lost for longer is sent anew, or its connection is given up."""

UP, DOWN = 0, 1


@dataclass(frozen=True)
class Ended:
    """The last thing on a stream: a status."""

    code: grpc.StatusCode
    details: str = ""
    trailing: tuple[tuple[str, bytes], ...] = ()


FINE = Ended(grpc.StatusCode.OK)
BROKEN = Ended(grpc.StatusCode.UNAVAILABLE, "the connection broke")
REFUSED = Ended(grpc.StatusCode.UNAVAILABLE, "nobody listens")
LATE = Ended(grpc.StatusCode.DEADLINE_EXCEEDED, "the deadline is over")
HALF_CLOSED = object()


@dataclass
class Weather:
    """How the network of one world is; seconds."""

    delay: float = 0.004
    repeat: float = 0.0
    """The probability that a call is made again, later, by nobody."""


class Road:
    """What is between two machines, whichever processes run there. ``closed``: the directions that swallow."""

    def __init__(self, network: Network, name: str) -> None:
        self.name = name
        self.closed = [False, False]
        self.slowness = 1.0
        self.at_run: Callable[[], None] | None = None
        """Called once, when the first message of the next `Run` is under way."""
        self.connections: list[Connection] = []
        self._network = network
        self._waiting: list[Pipe] = []

    @property
    def open(self) -> bool:
        return not any(self.closed)

    def close(self, up: bool, down: bool) -> None:
        self.closed = [up, down]
        for connection in list(self.connections):
            wait = self._network.random.uniform(*KEEPALIVE_SECONDS)
            self._network.loop.call_later(wait, self._give_up, connection)

    def reopen(self) -> None:
        self.closed = [False, False]
        waiting, self._waiting = self._waiting, []
        for pipe in waiting:
            pipe.move_on()

    def break_connections(self) -> None:
        for connection in list(self.connections):
            connection.break_off()

    def hold(self, pipe: Pipe) -> None:
        self._waiting.append(pipe)

    def _give_up(self, connection: Connection) -> None:
        if not self.open:
            connection.break_off()


class Network:
    """All roads, and who listens where."""

    def __init__(self, loop: asyncio.AbstractEventLoop, random: Random, weather: Weather) -> None:
        self.loop = loop
        self.random = random
        self.weather = weather
        self.numbers = itertools.count(1)
        self.roads: dict[tuple[str, str], Road] = {}
        self.servers: dict[str, VirtualServer] = {}
        self.repeats = 0

    def road(self, client: str, url: str) -> Road:
        if (client, url) not in self.roads:
            self.roads[client, url] = Road(self, f"{client}->{url}")
        return self.roads[client, url]

    def delay(self, road: Road) -> float:
        delay = min(self.random.expovariate(1.0) * self.weather.delay * road.slowness, LONGEST_DELAY)
        return delay if self.random.random() < 0.99 else min(delay * 50, LONGEST_DELAY)

    def channel(self, url: str, ca_certificates: bytes | None = None) -> VirtualChannel:
        """In place of `services.runtime.channel.open_channel`."""
        process = CURRENT.get()
        assert process is not None
        return VirtualChannel(self, process, url)


class Connection:
    """One TCP connection, from one process to another."""

    def __init__(self, network: Network, road: Road, client: Process, server: VirtualServer) -> None:
        self.network = network
        self.road = road
        self.server = server
        self.broken = False
        self.calls: dict[VirtualCall, None] = {}
        road.connections.append(self)
        server.connections.append(self)
        client.at_death(self.break_off)

    def break_off(self) -> None:
        """What is in flight is lost from a random point on; each side learns of it at a time of its own."""
        if self.broken:
            return
        self.broken = True
        self.road.connections.remove(self)
        self.server.connections.remove(self)
        for call in list(self.calls):
            call.lose()


class Pipe:
    """One direction of a call."""

    def __init__(self, call: VirtualCall, direction: int, deliver: Callable[[Any], None]) -> None:
        self._call = call
        self._direction = direction
        self._deliver = deliver
        self._flying: deque[tuple[float, Any]] = deque()
        self._free_at = 0.0
        self._timer: asyncio.TimerHandle | None = None
        self._held = False
        self.cut = False

    def send(self, item: Any) -> None:
        if self.cut:
            return
        network, road = self._call.network, self._call.road
        self._free_at = max(self._free_at, network.loop.time() + network.delay(road))
        self._flying.append((self._free_at, item))
        self._schedule()

    def move_on(self) -> None:
        """The road is open again."""
        self._held = False
        network, road = self._call.network, self._call.road
        now = network.loop.time()
        moved: deque[tuple[float, Any]] = deque()
        for _, item in self._flying:
            now += network.delay(road)
            moved.append((now, item))
        self._flying = moved
        self._free_at = max(self._free_at, now)
        self._schedule()

    def lose(self, ended: Any) -> None:
        """A random part of what is on the way still comes, and then the end that this side notices by itself."""
        if self.cut:
            return
        network, road = self._call.network, self._call.road
        self.cut = True
        kept = network.random.randint(0, len(self._flying)) if road.open else 0
        while len(self._flying) > kept:
            self._flying.pop()
        last = self._flying[-1][0] if self._flying else network.loop.time()
        self._held = False
        self._flying.append((last + network.random.expovariate(10.0), ended))
        self._schedule()

    def _schedule(self) -> None:
        if self._timer is None and self._flying and not self._held:
            self._timer = self._call.network.loop.call_at(self._flying[0][0], self._arrive)

    def _arrive(self) -> None:
        self._timer = None
        if not self._flying:
            return
        if self._call.road.closed[self._direction] and not self.cut:
            self._held = True
            self._call.road.hold(self)
            return
        if self._flying[0][0] > self._call.network.loop.time():  # those before it were lost
            self._schedule()
            return
        _, item = self._flying.popleft()
        self._deliver(item)
        self._schedule()


class VirtualChannel:
    """As grpc.aio.Channel: one connection, opened when it is needed."""

    def __init__(self, network: Network, process: Process, url: str) -> None:
        self.network = network
        self.process = process
        self.url = url
        self.road = network.road(process.name, url)
        self.connection: Connection | None = None
        self._waiting: list[VirtualCall] = []
        self._failed_until = 0.0

    def unary_unary(self, path: str, **codec: Any) -> Callable[..., VirtualCall]:
        return self._callable(path, codec, streams=False, unary=True)

    def unary_stream(self, path: str, **codec: Any) -> Callable[..., VirtualCall]:
        return self._callable(path, codec, streams=False, unary=False)

    def stream_unary(self, path: str, **codec: Any) -> Callable[..., VirtualCall]:
        return self._callable(path, codec, streams=True, unary=True)

    def stream_stream(self, path: str, **codec: Any) -> Callable[..., VirtualCall]:
        return self._callable(path, codec, streams=True, unary=False)

    async def close(self) -> None:
        if self.connection is not None:
            self.connection.break_off()

    def _callable(self, path: str, codec: dict[str, Any], streams: bool, unary: bool) -> Callable[..., VirtualCall]:
        encode, decode = codec["request_serializer"], codec["response_deserializer"]

        def begin(
            request: Any = None,
            *,
            timeout: float | None = None,
            metadata: Any = None,
            wait_for_ready: bool | None = None,
        ) -> VirtualCall:
            call = VirtualCall(self, path, encode, decode, unary, bool(wait_for_ready))
            call.begin(request, streams, timeout)
            return call

        return begin

    def join(self, call: VirtualCall) -> None:
        """Puts the call on the connection, now or once there is one."""
        network = self.network
        if not self.process.alive:
            return
        if self.connection is not None and not self.connection.broken:
            call.opened(self.connection)
            return
        if network.loop.time() < self._failed_until and not call.patient:
            network.loop.call_soon(call.end, REFUSED)
            return
        self._waiting.append(call)
        if len(self._waiting) == 1:
            wait = max(2 * network.delay(self.road), self._failed_until - network.loop.time())
            network.loop.call_later(wait, self._connect, network.loop.time() + CONNECT_SECONDS)

    def _connect(self, deadline: float) -> None:
        network, now = self.network, self.network.loop.time()
        server = network.servers.get(self.url)
        if not self.road.open and now < deadline:
            network.loop.call_later(0.5, self._connect, deadline)
            return
        waiting, self._waiting = self._waiting, []
        if server is None or not self.road.open or not self.process.alive:
            self._failed_until = now + network.random.uniform(0.1, 0.5)
            for call in waiting:
                if not call.patient:
                    call.end(REFUSED)
                elif not call.done():
                    self.join(call)
            return
        self.connection = Connection(network, self.road, self.process, server)
        for call in waiting:
            call.opened(self.connection)


class VirtualCall:
    """As the call objects of grpc.aio, of all four kinds."""

    def __init__(
        self, channel: VirtualChannel, path: str, encode: Any, decode: Any, unary: bool, patient: bool
    ) -> None:
        self.network = channel.network
        self.road = channel.road
        self.channel = channel
        self.path = path
        self.number = next(self.network.numbers)
        self._encode = encode
        self._decode = decode
        self.patient = patient
        """Whether it waits until there is a connection, however long that takes."""
        self._up = Pipe(self, UP, self._at_server)
        self._down = Pipe(self, DOWN, self._at_client)
        self._unsent: list[Any] = []
        self._connection: Connection | None = None
        self._served: Served | None = None
        self._got: deque[Any] = deque()
        self._reader: asyncio.Future[None] | None = None
        self._ended: Ended | None = None
        self._canceled = False
        self._half_closed = False
        self._first = True
        self._opening: asyncio.Future[None] = self.network.loop.create_future()
        self._sender: asyncio.Task[None] | None = None
        self._deadline: asyncio.TimerHandle | None = None
        self._callbacks: list[Callable[[VirtualCall], None]] = []

    def __hash__(self) -> int:
        return self.number

    def __eq__(self, other: object) -> bool:
        return self is other

    # --- what grpc.aio's callers see

    def done(self) -> bool:
        return self._canceled or self._ended is not None

    def cancel(self) -> bool:
        if self.done():
            return False
        self._canceled = True
        if self._served is not None:
            self._up.send(BROKEN)
        self._over()
        if self._reader is not None:
            self._reader.cancel()
        return True

    def add_done_callback(self, callback: Callable[[VirtualCall], None]) -> None:
        if self.done():
            self.network.loop.call_soon(callback, self)
        self._callbacks.append(callback)

    async def write(self, message: Any) -> None:
        if self.done() or self._half_closed:
            raise asyncio.InvalidStateError("RPC already finished or half-closed")
        if not self._opening.done():
            await self._wait_opening()
        elif self.network.random.random() < 0.1:
            await asyncio.sleep(self.network.random.uniform(0, 0.005))
        self._raise_for_end()
        self._send(message)

    async def done_writing(self) -> None:
        if not self.done() and not self._half_closed:
            self._half_closed = True
            self._up.send(HALF_CLOSED) if self._connection else self._unsent.append(HALF_CLOSED)

    async def read(self) -> Any:
        while not self._got:
            if self.done():
                self._raise_for_end()
                return EOF
            self._reader = self.network.loop.create_future()
            try:
                await self._reader
            except asyncio.CancelledError:
                self.cancel()
                raise
            finally:
                self._reader = None
        if self._canceled:
            raise asyncio.CancelledError
        return self._decode(self._got.popleft())

    async def __aiter__(self) -> AsyncIterator[Any]:
        while (message := await self.read()) is not EOF:
            yield message

    def __await__(self) -> Any:
        return self._answer().__await__()

    async def _answer(self) -> Any:
        answer = await self.read()
        await self.read()  # the status: an answer counts only with it
        return answer

    # --- its way

    def begin(self, request: Any, streams: bool, timeout: float | None) -> None:
        if not streams:
            self._unsent = [self._encode(request), HALF_CLOSED]
            self._half_closed = True
        elif request is not None:
            self._sender = self.network.loop.create_task(self._send_all(request))
        if timeout is not None:
            self._deadline = self.network.loop.call_later(timeout, self.end, LATE)
        self.channel.join(self)

    def opened(self, connection: Connection) -> None:
        if self.done():
            return
        self._connection = connection
        connection.calls[self] = None
        self._served = Served(self, connection.server)
        if not self._opening.done():
            self._opening.set_result(None)
        for item in self._unsent:
            self._up.send(item)
        if self._unsent:
            self._maybe_repeat(self._unsent)

    def end(self, ended: Ended) -> None:
        """The client's side is over, with what was received before still to be read."""
        if self.done():
            return
        self._ended = ended
        if ended is LATE and self._served is not None:
            self._up.send(BROKEN)
        self._over()
        self._wake()

    def lose(self) -> None:
        self._up.lose(BROKEN)
        self._down.lose(BROKEN)

    def answer(self, item: Any) -> None:
        """From the server."""
        self._down.send(item)

    def _send(self, message: Any) -> None:
        data = self._encode(message)
        self._up.send(data)
        if self._first:
            self._first = False
            if self.road.at_run is not None and self.path.endswith("/Run"):
                at_run, self.road.at_run = self.road.at_run, None
                self.network.loop.call_later(3 * self.network.delay(self.road), at_run)
            self._maybe_repeat([data])

    async def _send_all(self, requests: AsyncIterator[Any]) -> None:
        try:
            async for request in requests:
                await self.write(request)
            await self.done_writing()
        except (AioRpcError, asyncio.InvalidStateError):
            return
        except BaseException:
            self.cancel()
            raise

    async def _wait_opening(self) -> None:
        try:
            await asyncio.shield(self._opening)
        except asyncio.CancelledError:
            self.cancel()
            raise

    def _raise_for_end(self) -> None:
        if self._canceled:
            raise asyncio.CancelledError
        ended = self._ended
        if ended is not None and ended.code is not grpc.StatusCode.OK:
            raise AioRpcError(ended.code, Metadata(), Metadata(*ended.trailing), ended.details)

    def _at_server(self, item: Any) -> None:
        assert self._served is not None
        self._served.receive(item)

    def _at_client(self, item: Any) -> None:
        if isinstance(item, Ended):
            self.end(item)
        elif not self.done():
            self._got.append(item)
            self._wake()

    def _wake(self) -> None:
        if self._reader is not None and not self._reader.done():
            self._reader.set_result(None)

    def _over(self) -> None:
        if self._connection is not None:
            self._connection.calls.pop(self, None)
        if not self._opening.done() and not self._canceled:  # grpc.aio forgets those who write to a canceled call
            self._opening.set_result(None)
        for callback in self._callbacks:
            self.network.loop.call_soon(callback, self)
        if self._deadline is not None:
            self._deadline.cancel()
        if self._sender is not None and self._sender is not asyncio.current_task():
            self._sender.cancel()

    def _maybe_repeat(self, items: list[Any]) -> None:
        network = self.network
        if "Watch" in self.path or "Check" in self.path:
            return
        if network.random.random() < network.weather.repeat:
            network.repeats += 1
            wait = network.random.expovariate(1.0) * network.random.choice((0.01, 0.5, 5.0, 15.0))
            network.loop.call_later(wait, Ghost, network, self.channel.url, self.path, items)


class Ghost:
    """A call that was made already, made again; nobody reads its answers, and it breaks after a while."""

    def __init__(self, network: Network, url: str, path: str, items: list[Any]) -> None:
        server = network.servers.get(url)
        if server is None:
            return
        self.path = path
        self.network = network
        served = Served(self, server)
        for item in items:
            served.receive(item)
        network.loop.call_later(network.random.expovariate(1.0), served.receive, BROKEN)

    def answer(self, item: Any) -> None:
        pass


class VirtualServer:
    """As grpc.aio.Server, for the generated `add_..._to_server`."""

    def __init__(self, network: Network, process: Process, url: str, on_error: Callable[[BaseException], None]) -> None:
        self.network = network
        self.process = process
        self.url = url
        self.on_error = on_error
        self.on_run_response: Callable[[Served, Any], None] | None = None
        """Told of what the worker says on `Run`, before anybody hears of it."""
        self.connections: list[Connection] = []
        self.methods: dict[str, Any] = {}
        self.closed = False
        process.at_death(self.stop)

    def add_generic_rpc_handlers(self, handlers: Any) -> None:
        pass

    def add_registered_method_handlers(self, service: str, handlers: dict[str, Any]) -> None:
        self.methods |= {f"/{service}/{name}": handler for name, handler in handlers.items()}

    def start(self) -> None:
        self.network.servers[self.url] = self

    async def set_serving(self, serving: bool) -> None:
        pass

    def stop(self) -> None:
        self.closed = True
        if self.network.servers.get(self.url) is self:
            del self.network.servers[self.url]
        for connection in list(self.connections):
            connection.break_off()


class Served:
    """The server's side of a call, and the context that its handler gets."""

    def __init__(self, call: VirtualCall | Ghost, server: VirtualServer) -> None:
        self._call = call
        self._server = server
        self._handler = server.methods[call.path]
        self._requests: deque[Any] = deque()
        self._waiter: asyncio.Future[None] | None = None
        self._task: asyncio.Task[None] | None = None
        self._ended = False

    def peer(self) -> str:
        return "ipv4:127.0.0.1:1"

    async def write(self, message: Any) -> None:
        self._server.process.require_life()
        if self._server.on_run_response is not None and self._call.path.endswith("/Run"):
            self._server.on_run_response(self, message)
        self._call.answer(self._handler.response_serializer(message))
        if self._call.network.random.random() < 0.1:
            await asyncio.sleep(self._call.network.random.uniform(0, 0.005))

    def receive(self, item: Any) -> None:
        if self._ended or not self._server.process.alive:
            return
        if item is BROKEN:
            self._ended = True
            if self._task is not None:
                self._task.cancel()
            return
        self._requests.append(item)
        if self._task is None and not self._server.closed:
            self._task = self._server.process.spawn(f"serve {self._call.path}", self._serve())
        elif self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    async def _serve(self) -> None:
        try:
            await self._handle()
            self._end(FINE)
        except asyncio.CancelledError:
            self._ended = True
        except Exception as error:  # noqa: BLE001 - as the real interceptor
            self._end(self._status(error))

    def _end(self, ended: Ended) -> None:
        if not self._ended and self._server.process.alive:
            self._ended = True
            self._call.answer(ended)

    async def _handle(self) -> None:
        handler = self._handler
        request: Any = self if handler.request_streaming else await anext(self)
        if not handler.response_streaming:
            behavior = handler.stream_unary if handler.request_streaming else handler.unary_unary
            await self.write(await behavior(request, self))
            return
        responses = (handler.stream_stream if handler.request_streaming else handler.unary_stream)(request, self)
        if not hasattr(responses, "__anext__"):
            await responses
            return
        try:
            async for response in responses:
                await self.write(response)
        finally:
            await responses.aclose()

    def __aiter__(self) -> Served:
        """The requests."""
        return self

    async def __anext__(self) -> Any:
        while not self._requests:
            self._waiter = self._call.network.loop.create_future()
            await self._waiter
        item = self._requests.popleft()
        if item is HALF_CLOSED:
            self._requests.append(item)
            raise StopAsyncIteration
        return self._handler.request_deserializer(item)

    def _status(self, error: BaseException) -> Ended:
        while isinstance(error, ExceptionGroup):
            error = error.exceptions[0]
        if not isinstance(error, ServiceError):
            self._server.on_error(error)
            error = ServiceError(Reason.INTERNAL)
        return Ended(error.code, error.message, ((ERROR_DETAILS, status_of(error).SerializeToString()),))
