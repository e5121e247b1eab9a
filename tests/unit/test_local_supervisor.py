"""The supervisor, on small programs of our own: order, readiness, restarts, and leaving nothing behind."""

import os
import signal
import socket
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import psutil
import pytest

from infra.stack.local.home import Home, LocalError, open_home
from infra.stack.local.leftovers import leftovers
from infra.stack.local.process import ProcessSpec, Ready
from infra.stack.local.stack import down, log_lines, reset, start_detached, status
from infra.stack.local.supervisor import StartFailed, Supervisor
from tests.support.waiting import wait_until

pytestmark = [pytest.mark.asyncio, pytest.mark.timeout(60)]

DEADLINE_SECONDS = 20.0

# Says its name and its pid, then stays until it is asked to stop, and says that too.
WORKER = """
import os, pathlib, signal, sys
def stop(*_):
    print("stopped", flush=True)
    sys.exit(0)
signal.signal(signal.SIGTERM, signal.SIG_IGN if "stubborn" in sys.argv else stop)
print("started", os.getpid(), flush=True)
pathlib.Path(sys.argv[1]).write_text(str(os.getpid()))
while True:
    signal.pause()
"""

# A stack in the foreground, as the `tutti` command runs it.
STACK = f"""
import sys
from pathlib import Path
from infra.stack.local.home import open_home
from infra.stack.local.process import ProcessSpec
from infra.stack.local.stack import supervise
home, *options = sys.argv[1:]
marks = [Path(home) / name for name in ("a.pid", "b.pid")]
def spec(mark, depends_on):
    async def ready():
        return mark.exists() and "never" not in options
    argv = (sys.executable, "-S", "-c", {WORKER!r}, str(mark), *options)
    return ProcessSpec(mark.stem, argv, ready, depends_on=depends_on, ready_seconds=0.3, stop_seconds=0.5)
async def bring_up(supervisor):
    for mark in marks:
        mark.unlink(missing_ok=True)
    await supervisor.start([spec(marks[1], ("a",)), spec(marks[0], ())])
supervise(open_home(Path(home)), bring_up)
"""


@pytest.fixture
def home(tmp_path: Path) -> Home:
    return open_home(tmp_path / "home")


@asynccontextmanager
async def supervised(home: Home, *specs: ProcessSpec) -> AsyncIterator[Supervisor]:
    supervisor = Supervisor(home)
    try:
        await supervisor.start(specs)
        supervisor.declare_up()
        yield supervisor
    finally:
        await supervisor.stop()


def worker(home: Home, name: str, *options: str, **more: Any) -> ProcessSpec:
    mark = home.path / f"{name}.mark"

    async def ready() -> bool:
        return mark.exists()

    return ProcessSpec(name, (sys.executable, "-S", "-c", WORKER, str(mark), *options), ready, **more)


def program(name: str, code: str, ready: Ready, **more: Any) -> ProcessSpec:
    return ProcessSpec(name, (sys.executable, "-S", "-c", code), ready, **more)


async def at_once() -> bool:
    return True


async def never() -> bool:
    return False


def row(supervisor: Supervisor, name: str) -> dict[str, Any]:
    return next(row for row in supervisor.status()["processes"] if row["name"] == name)


async def test_a_process_starts_when_what_it_depends_on_is_ready(home: Home) -> None:
    order: list[str] = []

    def noting(name: str) -> Ready:
        async def ready() -> bool:
            order.append(name)
            return order.count(name) > 1

        return ready

    specs = [
        program("service", "import signal; signal.pause()", noting("service"), depends_on=("broker", "database")),
        program("broker", "import signal; signal.pause()", noting("broker")),
        program("database", "import signal; signal.pause()", noting("database")),
    ]
    async with supervised(home, *specs) as supervisor:
        assert supervisor.status()["state"] == "up"
    assert sorted(order[:4]) == ["broker", "broker", "database", "database"]
    assert order[4:] == ["service", "service"]


async def test_processes_added_later_may_depend_on_earlier_ones(home: Home) -> None:
    async with supervised(home, worker(home, "database")) as supervisor:
        await supervisor.start([worker(home, "service", depends_on=("database",))])
        assert [row["state"] for row in supervisor.status()["processes"]] == ["ready", "ready"]


async def test_a_circle_or_an_unknown_dependency_is_refused_before_anything_starts(home: Home) -> None:
    supervisor = Supervisor(home)
    with pytest.raises(LocalError, match="a, b"):
        await supervisor.start([worker(home, "a", depends_on=("b",)), worker(home, "b", depends_on=("a",))])
    with pytest.raises(LocalError, match="unknown"):
        await supervisor.start([worker(home, "a", depends_on=("nobody",))])
    assert supervisor.status()["processes"] == []
    await supervisor.stop()


async def test_dependents_stop_first(home: Home) -> None:
    shown: list[str] = []
    supervisor = Supervisor(home, shown.append)
    await supervisor.start([worker(home, "database"), worker(home, "service", depends_on=("database",))])
    await supervisor.stop()
    stopped = [line.split("|")[0].strip() for line in shown if line.endswith("| stopped")]
    assert stopped == ["service", "database"]


async def test_services_that_share_a_process_have_a_row_each_with_the_same_pid(home: Home) -> None:
    spec = worker(home, "services", roles=("credit", "pricing"), ports={"credit": 1, "pricing": 2})
    async with supervised(home, spec) as supervisor:
        rows = supervisor.status()["processes"]
        pid = int((home.path / "services.mark").read_text())
    assert rows == [
        {"name": "credit", "pid": pid, "state": "ready", "restarts": 0, "port": 1},
        {"name": "pricing", "pid": pid, "state": "ready", "restarts": 0, "port": 2},
    ]


async def test_a_killed_process_is_started_again_and_the_status_says_so(home: Home) -> None:
    async with supervised(home, worker(home, "service")) as supervisor:
        first = row(supervisor, "service")["pid"]
        os.kill(first, signal.SIGKILL)
        await wait_until(lambda: row(supervisor, "service")["state"] == "restarting", every=0.01)
        assert supervisor.status()["state"] == "degraded"
        assert status(home)["state"] == "degraded"
        await wait_until(lambda: row(supervisor, "service")["state"] == "ready")
        again = row(supervisor, "service")
        assert again["restarts"] == 1
        assert again["pid"] != first
        assert supervisor.status()["state"] == "up"


async def test_a_process_that_keeps_crashing_is_started_less_and_less_often(home: Home) -> None:
    shown: list[str] = []
    once = home.path / "once"
    code = f"import pathlib, signal\nonce = pathlib.Path({str(once)!r})\nif not once.exists(): once.touch(); signal.pause()"

    async def ready() -> bool:
        return once.exists() and len(shown) == 0

    supervisor = Supervisor(home, shown.append)
    await supervisor.start([program("service", code, ready)])
    os.kill(row(supervisor, "service")["pid"], signal.SIGKILL)
    await wait_until(lambda: row(supervisor, "service")["restarts"] >= 4)
    await supervisor.stop()
    pauses = [float(line.split()[-2]) for line in shown if "starting it again" in line]
    assert pauses == sorted(pauses)
    assert pauses[3] == 8 * pauses[0]


async def test_a_process_that_fails_to_start_is_explained_with_its_last_words(home: Home) -> None:
    spec = program("service", "print('no such table'); raise SystemExit(3)", never)
    with pytest.raises(StartFailed, match=r"(?s)service ended with exit code 3.*no such table"):
        async with supervised(home, spec):
            pass


async def test_a_process_that_is_not_ready_in_time_is_given_up(home: Home) -> None:
    spec = program("service", "import signal; signal.pause()", never, ready_seconds=0.1)
    with pytest.raises(StartFailed, match=r"not ready within 0\.1 s"):
        async with supervised(home, spec):
            pass
    assert leftovers(home) == []


async def test_a_process_whose_port_is_taken_fails_with_the_name_of_the_owner(home: Home) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        spec = program("service", "raise SystemExit(1)", never, ports={"service": listener.getsockname()[1]})
        with pytest.raises(StartFailed, match=f"taken by process {os.getpid()}"):
            async with supervised(home, spec):
                pass


async def test_a_process_that_ignores_the_request_to_stop_is_killed(home: Home) -> None:
    async with supervised(home, worker(home, "service", "stubborn", stop_seconds=0.2)) as supervisor:
        pid = row(supervisor, "service")["pid"]
    assert not psutil.pid_exists(pid)


async def test_output_goes_to_a_file_of_its_own(home: Home) -> None:
    async with supervised(home, worker(home, "service")) as supervisor:
        pid = row(supervisor, "service")["pid"]
    assert list(log_lines(home, "service")) == [f"started {pid}", "stopped"]
    with pytest.raises(LocalError, match="there are: service, supervisor"):
        list(log_lines(home, "unknown"))


def _argv(home: Home, *options: str) -> list[str]:
    return [sys.executable, "-c", STACK, str(home.path), *options]


def _pids(home: Home) -> list[int]:
    return [row["pid"] for row in status(home)["processes"]]


async def test_a_detached_stack_is_up_when_the_start_returns_and_gone_after_down(home: Home) -> None:
    detached = start_detached(home, _argv(home), DEADLINE_SECONDS)
    try:
        assert [row["name"] for row in status(home)["processes"]] == ["b", "a"]
        assert status(home)["state"] == "up"
        pids = _pids(home)
    finally:
        down(home)
    assert detached.process.wait(DEADLINE_SECONDS) == 0
    assert status(home) == {"state": "down", "processes": []}
    assert not any(psutil.pid_exists(pid) for pid in pids)
    down(home)


async def test_a_detached_stack_that_cannot_start_says_why_and_leaves_nothing(home: Home) -> None:
    with pytest.raises(StartFailed, match="not ready within"):
        start_detached(home, _argv(home, "never"), DEADLINE_SECONDS)
    assert leftovers(home) == []


async def test_processes_end_with_a_supervisor_that_is_killed(home: Home) -> None:
    detached = start_detached(home, _argv(home), DEADLINE_SECONDS)
    pids = _pids(home)
    detached.process.kill()
    detached.process.wait()
    assert status(home)["state"] == "down"
    if sys.platform == "linux":
        await wait_until(lambda: leftovers(home) == [])
    down(home)
    assert leftovers(home) == []
    assert not any(psutil.pid_exists(pid) and psutil.Process(pid).status() != "zombie" for pid in pids)


@pytest.mark.parametrize("then", ["down", "up"])
async def test_what_survives_a_killed_supervisor_is_ended_by_the_next_command(home: Home, then: str) -> None:
    detached = start_detached(home, _argv(home, "stubborn"), DEADLINE_SECONDS)
    pids = _pids(home)
    detached.process.kill()
    detached.process.wait()
    assert {process.pid for process in leftovers(home)} == set(pids)
    if then == "down":
        down(home)
        assert leftovers(home) == []
    else:
        again = start_detached(home, _argv(home), DEADLINE_SECONDS)
        assert {process.pid for process in leftovers(home)} == set(_pids(home))
        assert not set(pids) & set(_pids(home))
        down(home)
        again.process.wait()


async def test_ctrl_c_stops_everything(home: Home) -> None:
    detached = start_detached(home, _argv(home), DEADLINE_SECONDS)
    detached.process.send_signal(signal.SIGINT)
    assert detached.process.wait(DEADLINE_SECONDS) == 0
    assert leftovers(home) == []


async def test_down_leaves_another_home_alone(home: Home, tmp_path: Path) -> None:
    other = open_home(tmp_path / "other")
    detached = start_detached(other, _argv(other), DEADLINE_SECONDS)
    try:
        down(home)
        assert status(other)["state"] == "up"
    finally:
        down(other)
        detached.process.wait()


async def test_reset_ends_the_stack_and_empties_the_home(home: Home) -> None:
    detached = start_detached(home, _argv(home), DEADLINE_SECONDS)
    reset(home)
    detached.process.wait()
    assert list(home.path.iterdir()) == []
    assert leftovers(home) == []
