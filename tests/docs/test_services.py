"""The examples in docs/deploy that docs/serve.md names do what it says."""

from __future__ import annotations

import configparser
import http.client
import json
import os
import re
import shlex
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from support import DEADLINE, poll
from support.services import COMMAND, environment, service

import fastmgr

DEPLOY = Path(__file__).resolve().parents[2] / "docs" / "deploy"
UNITS = sorted(DEPLOY.glob("*.s*"))


def unit(name: str) -> configparser.ConfigParser:
    parsed = configparser.ConfigParser(strict=False, interpolation=None)
    parsed.optionxform = str  # type: ignore[assignment,method-assign]
    parsed.read(DEPLOY / name)
    return parsed


def test_units_are_such_that_systemd_takes(tmp_path: Path) -> None:
    analyze = shutil.which("systemd-analyze")
    if analyze is None:
        pytest.skip("systemd-analyze is not installed")
    assert {path.name for path in UNITS} >= {"fastmgr.service", "fastmgr.socket"}
    for path in UNITS:
        text = re.sub(r"/opt/fastmgr/bin/\w+", sys.executable, path.read_text())
        (tmp_path / path.name).write_text(text)
    copies = [str(tmp_path / path.name) for path in UNITS]
    done = subprocess.run([analyze, "verify", *copies], capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")


def test_service_runs_as_its_unit_says(tmp_path: Path) -> None:
    """Its command, with the socket, the credential and the signals that systemd would send."""
    of_service, of_socket = unit("fastmgr.service")["Service"], unit("fastmgr.socket")["Socket"]
    name, _, source = of_service["LoadCredential"].partition(":")
    assert source.startswith("/etc/fastmgr/")
    (tmp_path / "credentials").mkdir()
    (tmp_path / "credentials" / name).write_bytes(b"key of the unit's test\n")
    (tmp_path / "credentials" / name).chmod(0o400)
    script, *words = shlex.split(of_service["ExecStart"])
    assert script == "/opt/fastmgr/bin/fastmgr"
    words = [word.replace("/var/lib/fastmgr", str(tmp_path)) for word in words]
    grace = float(words[words.index("--grace") + 1])
    assert grace < float(of_service["TimeoutStopSec"]) <= float(of_service["WatchdogSec"])
    path = str(tmp_path / "server.sock")
    with socket.socket(socket.AF_UNIX) as sock:
        sock.bind(path)
        os.chmod(path, int(of_socket["SocketMode"], 8))
        sock.listen()
        variables = {
            "CREDENTIALS_DIRECTORY": str(tmp_path / "credentials"),
            "WATCHDOG_USEC": of_service["WatchdogSec"] + "000000",
        }
        before = os.umask(int(of_service["UMask"], 8))
        try:
            for count in (1, 2):  # the arena keeps what has a name
                with service(*words, passes=sock, env=variables, command=COMMAND) as served:
                    manager = fastmgr.SyncManager.from_address(path, b"key of the unit's test")
                    assert manager.Counter(name="starts").incr() == count
                    assert "kill -HUP" in of_service["ExecReload"]
                    served.process.send_signal(signal.SIGHUP)
                    served.process.terminate()
                    assert served.ends() == 0
        finally:
            os.umask(before)


def dockerfile(folder: Path) -> dict[str, list[str]]:
    """The commands of the Dockerfile, with a folder in the place of the volume."""
    text = (DEPLOY / "Dockerfile").read_text().replace("/run/fastmgr", str(folder))
    text = text.replace("\\\n", " ")
    found = re.findall(r"^(ENTRYPOINT|CMD|HEALTHCHECK)\b.*?(\[.*\])$", text, re.MULTILINE)
    return {name: json.loads(words) for name, words in found}


@pytest.fixture
def container(tmp_path: Path) -> Iterator[dict[str, str]]:
    """The environment of programs beside the container's server, which runs."""
    commands = dockerfile(tmp_path)
    words = [*commands["ENTRYPOINT"], *commands["CMD"]]
    assert words[0] == "fastmgr"
    with service(*words[1:], command=COMMAND):
        yield environment({"FASTMGR_SERVER": str(tmp_path / "server.sock")})


def test_probe_of_the_container(container: dict[str, str], tmp_path: Path) -> None:
    program, *words = dockerfile(tmp_path)["HEALTHCHECK"]
    assert program == "fastmgr"
    done = subprocess.run([*COMMAND, *words], capture_output=True, timeout=DEADLINE, text=True)
    assert done.returncode == 0 and "the server answers" in done.stdout


def test_dockerfile_is_one_that_docker_takes() -> None:
    docker = shutil.which("docker")
    if docker is None or subprocess.run([docker, "info"], capture_output=True).returncode:
        pytest.skip("no docker is running")
    done = subprocess.run([docker, "build", "--check", str(DEPLOY)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_workers_of_the_compose_file(container: dict[str, str]) -> None:
    text = (DEPLOY / "compose.yml").read_text()
    assert 'entrypoint: ["python", "/jobs.py"]' in text and "replicas: 2" in text
    assert "FASTMGR_SERVER: /run/fastmgr/server.sock" in text
    jobs = [sys.executable, str(DEPLOY / "jobs.py")]
    workers = [subprocess.Popen(jobs, env=container) for _ in range(2)]
    try:
        for times in (1, 2):
            done = subprocess.run(
                [*jobs, "spam eggs", "spam"],
                env=container, capture_output=True, text=True, timeout=DEADLINE,
            )  # fmt: skip
            counts = {"spam": 2 * times, "eggs": times}
            assert done.stdout == f"{3 * times} {counts}\n", done.stderr
        for worker in workers:
            worker.terminate()
            assert worker.wait(DEADLINE) == 0
    finally:
        for worker in workers:
            worker.kill()
            worker.wait(DEADLINE)


WEB = {
    "gunicorn": ("gunicorn", "--workers", "2", "--bind", "127.0.0.1:{port}", "web:wsgi"),
    "preload": (
        "gunicorn",
        "--workers",
        "2",
        "--preload",
        "--bind",
        "127.0.0.1:{port}",
        "web:wsgi",
    ),
    "uvicorn": ("uvicorn", "--workers", "2", "--port", "{port}", "web:asgi"),
}
WEB["page"] = WEB["gunicorn"]  # the application that docs/howto/web-workers.md shows


def application(kind: str, container: dict[str, str], folder: Path) -> Path:
    """The folder in which web.py is."""
    if kind != "page":
        return DEPLOY
    page = (DEPLOY.parent / "howto" / "web-workers.md").read_text()
    found = re.search(r"`web\.py`:\n\n```python\n(.*?)```", page, re.DOTALL)
    assert found is not None
    text = found[1].replace("/run/fastmgr/server.sock", container["FASTMGR_SERVER"])
    (folder / "web.py").write_text(text)
    return folder


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as sock:
        port: int = sock.getsockname()[1]
        return port


def asked(port: int) -> int | None:
    """What the application answers; None while it does not."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=DEADLINE)
    try:
        connection.request("GET", "/")
        return int(connection.getresponse().read())
    except (OSError, http.client.HTTPException):
        return None
    finally:
        connection.close()


def children(pid: int) -> list[int]:
    shown = subprocess.run(["ps", "-o", "pid=", "--ppid", str(pid)], capture_output=True, text=True)
    return [int(word) for word in shown.stdout.split()]


@pytest.mark.skipif(sys.platform != "linux", reason="asks ps for children as Linux's does")
@pytest.mark.parametrize("kind", WEB)
def test_workers_of_a_web_server_count_together(
    kind: str, container: dict[str, str], tmp_path: Path
) -> None:
    program, *words = WEB[kind]
    pytest.importorskip(program)
    port = free_port()
    command = [sys.executable, "-m", program, *(word.format(port=port) for word in words)]
    folder = application(kind, container, tmp_path)
    web = subprocess.Popen(command, cwd=folder, env={**container, "PYTHONDONTWRITEBYTECODE": "1"})
    try:
        answers: list[Any] = []

        def answered() -> bool:
            answers.append(asked(port))
            return answers[-1] is not None

        poll(answered, f"{program} answers")
        total = answers[-1]
        for _ in range(20):
            total += 1
            assert asked(port) == total
        killed = children(web.pid)[-1]
        os.kill(killed, signal.SIGKILL)
        poll(answered, "it answers again")
        assert answers[-1] > total  # requests that were cut off with their worker may have counted
        web.terminate()
        assert web.wait(DEADLINE) in (0, -signal.SIGTERM)
    finally:
        web.kill()
        web.wait(DEADLINE)


@pytest.mark.skipif(sys.platform != "linux", reason="asks ps for children as Linux's does")
@pytest.mark.parametrize("how", [[], ["--preload"]], ids=["each", "preload"])
def test_metrics_of_workers_that_are_killed(how: list[str], container: dict[str, str]) -> None:
    """Each request that was answered is counted, and a scrape of any worker shows it."""
    pytest.importorskip("gunicorn")
    parser = pytest.importorskip("prometheus_client.parser")
    port = free_port()
    command = ["gunicorn", "--workers", "2", "--bind", f"127.0.0.1:{port}", *how, "metrics:app"]
    web = subprocess.Popen(
        [sys.executable, "-m", *command],
        cwd=DEPLOY,
        env={**container, "PYTHONDONTWRITEBYTECODE": "1"},
    )

    def got(path: str) -> str | None:
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=DEADLINE)
        try:
            connection.request("GET", path)
            return connection.getresponse().read().decode()
        except (OSError, http.client.HTTPException):
            return None
        finally:
            connection.close()

    def shown() -> dict[str, float]:
        families = list(parser.text_string_to_metric_families(got("/metrics") or ""))
        samples = (sample for family in families for sample in family.samples)
        return {sample.name: sample.value for sample in samples if "le" not in sample.labels}

    try:
        poll(lambda: got("/metrics") is not None, "gunicorn answers")
        answered = 0
        for _ in range(3):
            for _ in range(10):
                answered += got("/page") == "hello\n"
            os.kill(children(web.pid)[-1], signal.SIGKILL)
            poll(lambda: got("/metrics") is not None, "it answers again")
        found = shown()
        assert answered >= 20  # a killed worker may have had a connection that it had accepted
        assert answered <= found["app_requests_total"] <= answered + 10
        assert found["app_request_seconds_count"] == found["app_requests_total"]
        assert found["app_busy_workers"] == 0.0
        web.terminate()
        assert web.wait(DEADLINE) in (0, -signal.SIGTERM)
    finally:
        web.kill()
        web.wait(DEADLINE)
