"""The home of a private stack: what it remembers, whom it lets in, what it refuses to believe."""

import json
import os
import socket
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from infra.stack.local.home import AlreadyRunning, LocalError, ProcessIdentity, TakenPort, open_home, port_is_free

HOLD_THE_HOME = """
import signal, sys
from pathlib import Path
from infra.stack.local.home import open_home
with open_home(Path(sys.argv[1])).supervised_by_us():
    print("held", flush=True)
    signal.pause()
"""


def _mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def _listen(port: int) -> socket.socket:
    listener = socket.socket()
    listener.bind(("127.0.0.1", port))
    listener.listen()
    return listener


def test_the_home_is_where_the_environment_says(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TUTTI_HOME", str(tmp_path / "elsewhere"))
    assert open_home().path == tmp_path / "elsewhere"


def test_only_its_owner_may_look_into_a_new_home(tmp_path: Path) -> None:
    home = open_home(tmp_path / "home")
    home.write_addresses({"ingress": "http://127.0.0.1:1"})
    home.secret("database")
    assert _mode(home.path) == 0o700
    assert _mode(home.addresses_file) == 0o600
    assert _mode(home.path / "secrets.json") == 0o600


def test_a_home_that_cannot_be_written_is_named_with_the_remedy(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(LocalError, match=r"file/home.*TUTTI_HOME"):
        open_home(tmp_path / "file" / "home")


def test_secrets_differ_by_name_and_by_home_and_stay_the_same(tmp_path: Path) -> None:
    home = open_home(tmp_path / "a")
    first = home.secret("database")
    assert open_home(tmp_path / "a").secret("database") == first
    assert len({first, home.secret("broker"), open_home(tmp_path / "b").secret("database")}) == 3


def test_a_port_is_remembered(tmp_path: Path) -> None:
    port = open_home(tmp_path).port("ingress")
    assert port_is_free(port)
    assert open_home(tmp_path).port("ingress") == port
    assert open_home(tmp_path).port("orchestrator") != port


def test_a_taken_port_is_named_with_its_owner_and_used_again_once_it_is_free(tmp_path: Path) -> None:
    home = open_home(tmp_path)
    port = home.port("ingress")
    taken: list[TakenPort] = []
    with _listen(port):
        instead = home.port("ingress", taken)
    assert instead != port
    [note] = taken
    assert note.owner.pid == os.getpid()
    assert str(port) in str(note)
    assert str(instead) in str(note)
    assert str(os.getpid()) in str(note)
    assert "tutti up" in str(note)
    assert home.port("ingress", taken) == port
    assert len(taken) == 1


def test_a_second_supervisor_is_told_who_holds_the_home(tmp_path: Path) -> None:
    home = open_home(tmp_path)
    with home.supervised_by_us():
        assert home.supervisor() == ProcessIdentity.of(os.getpid())
        with (
            pytest.raises(AlreadyRunning, match=f"process {os.getpid()}.*tutti down"),
            home.supervised_by_us(),
        ):
            pass
    assert home.supervisor() is None


def test_a_pid_file_is_not_believed_when_the_pid_belongs_to_another_process_by_now(tmp_path: Path) -> None:
    home = open_home(tmp_path)
    started_at = ProcessIdentity.of(os.getpid()).started_at
    home.supervisor_file.write_text(json.dumps({"pid": os.getpid(), "started_at": started_at - 3600}))
    assert home.recorded_supervisor() is not None
    assert home.supervisor() is None
    with home.supervised_by_us():
        assert home.supervisor() == ProcessIdentity.of(os.getpid())


def test_a_home_is_free_again_when_its_supervisor_was_killed(tmp_path: Path) -> None:
    home = open_home(tmp_path)
    with subprocess.Popen([sys.executable, "-c", HOLD_THE_HOME, str(tmp_path)], stdout=subprocess.PIPE, text=True) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "held\n"
        with pytest.raises(AlreadyRunning), home.supervised_by_us():
            pass
        holder.kill()
    assert home.recorded_supervisor() is not None
    assert home.supervisor() is None
    with home.supervised_by_us():
        pass
