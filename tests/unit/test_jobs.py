"""What the jobs of the container stack say about wrong settings, and what the secrets' generator writes."""

import os
import stat
import subprocess
from pathlib import Path
from urllib.parse import urlsplit

import httpx2
import pytest
from tenacity import stop_after_attempt

from infra.stack.jobs import environment, schema, secrets, topology
from infra.terminal.exit_codes import ExitCode
from services.ingress.keys import parse_key


@pytest.fixture(autouse=True)
def bare_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in os.environ if name.startswith("TUTTI_")]:
        monkeypatch.delenv(name)


def test_everything_that_is_missing_is_named_at_once(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    (tmp_path / "empty").write_text("\n")
    monkeypatch.setenv("TUTTI_B_FILE", str(tmp_path / "nowhere"))
    monkeypatch.setenv("TUTTI_C_FILE", str(tmp_path / "empty"))
    monkeypatch.setenv("TUTTI_D", "here")

    with pytest.raises(environment.SettingsError) as refused:
        environment.read(["TUTTI_A", "TUTTI_B", "TUTTI_C", "TUTTI_D"])

    text = str(refused.value)
    assert "TUTTI_A, TUTTI_C" in text
    assert "TUTTI_B_FILE names" in text
    assert "nowhere" in text
    assert "TUTTI_D" not in text


def test_a_value_is_preferred_to_a_file(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    (tmp_path / "file").write_text("of the file\n")
    monkeypatch.setenv("TUTTI_A_FILE", str(tmp_path / "file"))
    assert environment.read(["TUTTI_A"]) == {"TUTTI_A": "of the file"}
    monkeypatch.setenv("TUTTI_A", "of the variable")
    assert environment.read(["TUTTI_A"]) == {"TUTTI_A": "of the variable"}


def test_a_url_of_another_user_or_without_a_password_is_refused_without_being_shown():
    urls = {"A": "amqp://pricing:hidden@h/", "B": "amqp://pricing@h/", "C": "amqp://wms:p%40ss@h/"}
    with pytest.raises(environment.SettingsError) as refused:
        environment.passwords(urls, {"credit": "A", "pricing": "B", "wms": "C"})
    assert "'credit'" in str(refused.value)
    assert "B has no password" in str(refused.value)
    assert "hidden" not in str(refused.value)
    assert environment.passwords(urls, {"wms": "C"}) == {"wms": "p@ss"}


def test_jobs_without_settings_end_with_the_code_for_usage_and_name_every_variable(capfd: pytest.CaptureFixture[str]):
    for job, variables in ((topology, topology.BROKER_URLS), (schema, schema.DATABASE_URLS)):
        assert job.main() == ExitCode.USAGE
        said = capfd.readouterr().err
        assert all(variable in said for variable in variables.values())


def test_broker_urls_of_different_virtual_hosts_are_refused(monkeypatch: pytest.MonkeyPatch):
    urls = {variable: f"amqp://{user}:x@h/" for user, variable in topology.BROKER_URLS.items()}
    urls |= {"TUTTI_MANAGEMENT_URL": "http://h", "TUTTI_WMS__BROKER_URL": "amqp://wms:x@h/other"}
    with pytest.raises(environment.SettingsError, match="/, other"):
        topology.install(urls)


async def test_servers_that_never_answer_are_waited_for_only_so_long(unused_tcp_port: int):
    address = f"127.0.0.1:{unused_tcp_port}"
    with pytest.raises(httpx2.ConnectError):
        topology.until_ready.retry_with(stop=stop_after_attempt(2))(f"http://{address}")
    with pytest.raises(OSError, match="onnect"):
        await schema.until_ready.retry_with(stop=stop_after_attempt(2))(f"postgresql://u:p@{address}/d")
    assert environment.SERVER_STOP.max_delay == environment.SERVER_SECONDS_MAX


def test_secrets_are_random_complete_and_kept_when_written_again(tmp_path: Path):
    one, two = secrets.SecretFiles(tmp_path / "one"), secrets.SecretFiles(tmp_path / "two")
    written = one.write_missing()
    assert two.write_missing() == written
    before = {name: (one.directory / name).read_text() for name in written}
    assert not [name for name in written if before[name] == (two.directory / name).read_text()]

    assert one.write_missing() == []
    assert {name: (one.directory / name).read_text() for name in written} == before


def test_a_deleted_secret_is_made_anew_and_nothing_else_changes(tmp_path: Path):
    files = secrets.SecretFiles(tmp_path)
    written = files.write_missing()
    before = {name: (tmp_path / name).read_text() for name in written}
    (tmp_path / "credit_broker_url").unlink()

    assert files.write_missing() == ["credit_broker_url"]
    changed = {name for name in written if (tmp_path / name).read_text() != before[name]}
    assert changed == {"credit_broker_url"}


def test_only_the_owner_may_enter_the_directory_and_a_containers_user_may_read_the_files(tmp_path: Path):
    files = secrets.SecretFiles(tmp_path / "secrets")
    written = files.write_missing()
    assert stat.S_IMODE(files.directory.stat().st_mode) == 0o700
    assert {stat.S_IMODE((files.directory / name).stat().st_mode) for name in written} == {0o444}


def test_git_ignores_all_secrets_wherever_they_are(tmp_path: Path):
    written = secrets.SecretFiles(tmp_path).write_missing()
    subprocess.run(["git", "init", "--quiet", str(tmp_path)], check=True, timeout=20)
    told = subprocess.run(
        ["git", "-C", str(tmp_path), "status", "--porcelain"], check=True, timeout=20, capture_output=True, text=True
    )
    assert written
    assert told.stdout == ""


def test_the_administrators_urls_and_files_have_the_same_password(tmp_path: Path):
    secrets.SecretFiles(tmp_path).write_missing()
    database, broker = (tmp_path / "database_password").read_text(), (tmp_path / "broker_password").read_text()
    assert urlsplit((tmp_path / "database_url").read_text()).password == database
    assert urlsplit((tmp_path / "management_url").read_text()).password == broker
    assert f"default_pass = {broker}\n" in (tmp_path / "broker_administrator.conf").read_text()


def test_partners_keys_have_the_form_that_ingress_takes(tmp_path: Path):
    secrets.SecretFiles(tmp_path).write_missing()
    for path in tmp_path.glob("*_api_key"):
        assert parse_key(path.read_text()) is not None


def test_the_command_prints_names_and_no_values(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    assert secrets.main(["--directory", str(tmp_path)]) == 0
    said = capsys.readouterr().out
    assert "credit_database_url" in said
    assert (tmp_path / "operator_token").read_text() not in said
    assert secrets.main(["--directory", str(tmp_path)]) == 0
    assert "nothing was missing" in capsys.readouterr().out
