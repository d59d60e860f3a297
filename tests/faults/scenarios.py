"""All faults by name, how often each is had in a long run, and in what system."""

from __future__ import annotations

from dataclasses import dataclass, field

from tests.faults import batch, clocks, full, kills, links, races
from tests.faults.kills import Run
from tests.faults.world import CONTROLLER, GATEWAY, WORKER, Shape

DEFAULT_POLL_SECONDS = 5.0
SMALL_DISK_MB = 100


@dataclass(frozen=True, slots=True)
class Scenario:
    """``disk``: the folder that lies on a disk of its own, of SMALL_DISK_MB. ``clocks``: whether they can be set."""

    name: str
    fault: str
    times: int
    run: Run
    shape: Shape = field(default_factory=Shape)
    disk: str = ""
    clocks: bool = False


LEASE = {"REMOTE_WORKER_LEASE_SECONDS": "2"}

SCENARIOS = (
    Scenario("kill-worker", "worker killed", 200, kills.killed(WORKER)),
    Scenario("kill-speakers", "worker killed, jobs with speakers", 20, kills.killed(WORKER), Shape(speakers=True)),
    Scenario("kill-controller", "controller killed", 200, kills.killed(CONTROLLER)),
    Scenario("kill-gateway", "gateway killed", 30, kills.killed(GATEWAY)),
    Scenario("kill-engine", "engine child killed", 15, kills.engine_killed),
    Scenario("kill-all", "all three killed at once", 10, kills.all_killed),
    Scenario("kill-unheard", "worker killed while nobody hears it", 20, kills.killed_unheard),
    Scenario("kill-batch", "batch runner killed", 15, batch.batch_killed),
    Scenario("stop-worker", "worker stopped, then let go on", 6, kills.stopped(WORKER)),
    Scenario("stop-engine", "engine child stopped, then let go on", 4, kills.stopped("engine")),
    Scenario("hang-engine", "engine child stopped for good", 1, kills.engine_hung),
    Scenario("stop-controller", "controller stopped, then let go on", 6, kills.stopped(CONTROLLER)),
    Scenario("drain-worker", "SIGTERM to the worker, started again", 10, kills.drained),
    Scenario("cut-worker-link", "link to the worker cut", 20, links.cut(WORKER)),
    Scenario("refuse-worker-link", "link to the worker refused", 8, links.refused(WORKER)),
    Scenario("delay-worker-link", "link to the worker slow", 8, links.delayed(WORKER)),
    Scenario(
        "stall-worker-link", "black hole to the worker", 3, links.stalled(), Shape(poll_seconds=DEFAULT_POLL_SECONDS)
    ),
    Scenario(
        "half-open-up",
        "half-open link: nothing to the worker",
        2,
        links.stalled(down=False),
        Shape(poll_seconds=DEFAULT_POLL_SECONDS),
    ),
    Scenario(
        "half-open-down",
        "half-open link: nothing from it",
        2,
        links.stalled(up=False),
        Shape(poll_seconds=DEFAULT_POLL_SECONDS),
    ),
    Scenario("cut-controller-link", "link gateway to controller cut", 20, links.cut(CONTROLLER)),
    Scenario("stall-controller-link", "black hole to the controller", 3, links.gateway_stalled),
    Scenario(
        "cancel-unreachable", "canceled while the worker is away", 5, races.canceled_while_unreachable, Shape(paced=1.0)
    ),
    Scenario("cancel-race", "canceled at the job's end", 100, races.canceled_at_the_end, Shape(paced=0.05)),
    Scenario(
        "two-workers",
        "worker in a black hole beyond its lease",
        4,
        races.left_behind,
        Shape(workers=2, paced=1.0, settings=LEASE),
    ),
    Scenario(
        "two-controllers",
        "two controllers at one worker",
        15,
        races.shared_worker,
        Shape(controllers=2, slots=2, paced=0.1),
    ),
    Scenario("shift-clocks", "clocks set, forward and back", 15, clocks.shifted, clocks=True),
    Scenario("full-controller", "controller's disk full", 3, full.filled("controller"), disk="controller"),
    Scenario("full-worker", "worker's disk full", 3, full.filled("worker"), disk="worker"),
    Scenario("full-logs", "disk of the logs full", 3, full.filled("logs"), disk="logs"),
)
