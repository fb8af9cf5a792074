"""What runs a miner for good: it names commands, settings and files that there are, and its own tools take it."""

from __future__ import annotations

import configparser
import http.client
import json
import re
import shlex
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import pytest
import typer
import yaml

from miner.cli.main import app
from miner.settings import MinerSettings, check_variables, load_settings
from tests.support.http_server import serve_beside
from tests.support.ports import free_port

ROOT = Path(__file__).parents[2]
DEPLOY = ROOT / "deploy"
DOCKERFILE = DEPLOY / "docker" / "Dockerfile"
UNITS = sorted((DEPLOY / "systemd").glob("*.service"))


def needs(program: str) -> str:
    path = shutil.which(program) or shutil.which(program, path="/usr/sbin:/sbin")
    if path is None:
        pytest.skip(f"{program} is not installed")
    return path


def accept(words: list[str]) -> None:
    """A command line is one that the program takes."""
    command: Any = typer.main.get_command(app)
    while hasattr(command, "commands"):
        command = command.commands[words.pop(0)]
    command.make_context(command.name, [*words], resilient_parsing=True)
    options = {option for parameter in command.params for option in parameter.opts}
    assert {word for word in words if word.startswith("--")} <= options


def compose() -> dict[str, Any]:
    found: dict[str, Any] = yaml.safe_load((DEPLOY / "docker" / "compose.yaml").read_text())
    return found


def ours() -> Iterator[tuple[str, dict[str, Any]]]:
    """Services of this program."""
    yield from ((name, one) for name, one in compose()["services"].items() if "build" in one)


def test_services_run_commands_with_settings_that_there_are(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for _, service in ours():
        accept(list(service["command"]))
        check_variables(service["environment"])
        for name, value in service["environment"].items():
            monkeypatch.setenv(name, re.sub(r"\$\{\w+:?[-?]?(\w*).*\}", r"\1", value) or "auto")
        (tmp_path / "roads").mkdir(exist_ok=True)
        load_settings()


def test_services_are_built_from_stages_that_there_are() -> None:
    stages = re.findall(r"^FROM \S+ AS (\w+)$", DOCKERFILE.read_text(), re.MULTILINE)
    for _, service in ours():
        assert service["build"]["target"] in stages
        assert (DEPLOY / "docker" / service["build"]["context"]).resolve() == ROOT
    assert {"miner", "night", "cuda"} <= set(stages)


def test_everything_a_service_needs_is_in_the_example_of_its_environment() -> None:
    text = (DEPLOY / "docker" / "compose.yaml").read_text()
    given = {line.partition("=")[0] for line in (DEPLOY / "docker" / ".env.example").read_text().splitlines()}
    assert set(re.findall(r"\$\{(\w+)", text)) <= given


def test_the_miner_comes_before_the_night_and_both_know_the_same() -> None:
    services = dict(ours())
    miner, nightly = services["miner"]["environment"], services["nightly"]["environment"]
    assert miner.items() <= nightly.items()
    assert services["miner"]["cpu_shares"] > services["nightly"]["cpu_shares"]
    assert services["miner"]["oom_score_adj"] < 0 < services["nightly"]["oom_score_adj"]


def test_a_stop_leaves_the_miner_its_time() -> None:
    seconds = int(dict(ours())["miner"]["stop_grace_period"].removesuffix("s"))
    assert seconds > MinerSettings().requests.deadline_s


def test_the_dockerfile_copies_what_is_there_and_pins_what_is_locked() -> None:
    text = DOCKERFILE.read_text()
    for sources in re.findall(r"^COPY (?!--from)(.+) \S+$", text, re.MULTILINE):
        for source in sources.split():
            assert (ROOT / source).exists(), source
    torch = re.search(r'"torch==([\d.]+)"', (ROOT / "pyproject.toml").read_text())
    assert torch is not None
    assert f'"torch=={torch[1]}"' in text
    extras = set(re.findall(r"^([\w-]+) = \[", (ROOT / "pyproject.toml").read_text(), re.MULTILINE))
    for given in re.findall(r"whl\)\[([\w,-]+)\]", text):
        assert set(given.split(",")) <= extras
    packages = {path.name for path in ROOT.iterdir() if (path / "py.typed").is_file()}
    assert packages == set(re.findall(r"^COPY (\w+) \1$", text, re.MULTILINE))


def test_no_image_runs_as_root() -> None:
    text = DOCKERFILE.read_text()
    made = re.search(r"useradd .*--uid (\d+)", text)
    assert made is not None
    for stage in text.split("\nFROM ")[2:]:
        users = re.findall(r"^USER (\w+)$", stage, re.MULTILINE)
        # By its number, which a cluster can see to be none of root's.
        assert users[-1] == made[1]


def section(unit: Path) -> dict[str, str]:
    parser = configparser.RawConfigParser(strict=False)
    parser.optionxform = str  # type: ignore[assignment,method-assign]
    parser.read_string(unit.read_text())
    return dict(parser["Service"])


@pytest.mark.parametrize("unit", UNITS, ids=lambda unit: unit.stem)
def test_a_unit_starts_a_command_that_there_is(unit: Path) -> None:
    program, *words = shlex.split(section(unit)["ExecStart"])
    assert program.endswith("/cascade")
    accept(words)
    names = re.findall(r"^Environment=(\w+)=", unit.read_text(), re.MULTILINE)
    check_variables(names)


def test_the_night_stands_behind_the_miner_in_everything() -> None:
    miner, night = (section(DEPLOY / "systemd" / f"cascade-{name}.service") for name in ("miner", "nightly"))
    assert int(miner["CPUWeight"]) > 100 > int(night["CPUWeight"])
    assert int(miner["OOMScoreAdjust"]) < 0 < int(night["OOMScoreAdjust"])
    assert int(miner["TimeoutStopSec"]) > MinerSettings().requests.deadline_s


@pytest.mark.parametrize("unit", UNITS, ids=lambda unit: unit.stem)
def test_systemd_takes_a_unit(unit: Path, tmp_path: Path) -> None:
    systemd = needs("systemd-analyze")
    copy = tmp_path / unit.name
    # The program is not installed where the tests run.
    copy.write_text(unit.read_text().replace("/opt/cascade/bin/cascade", sys.executable))
    done = subprocess.run([systemd, "verify", str(copy)], capture_output=True, text=True, check=False)
    # Two keys of systemd 254 are told of by older ones.
    told = [line for line in done.stderr.splitlines() if unit.name in line and "Restart" not in line]
    assert told == []


def test_node_takes_the_file_of_pm2() -> None:
    node = needs("node")
    script = f"process.stdout.write(JSON.stringify(require({json.dumps(str(DEPLOY / 'pm2' / 'ecosystem.config.js'))})))"
    done = subprocess.run([node, "-e", script], capture_output=True, text=True, check=True)
    for one in json.loads(done.stdout)["apps"]:
        accept(list(one["args"]))
        check_variables(one.get("env", {}))
        assert one["kill_timeout"] / 1e3 > MinerSettings().requests.deadline_s
        # pm2 takes whoever a signal ended for one that ended with 0: a miner that lacked memory would stay down.
        assert one["autorestart"]
        assert one["stop_exit_codes"] == [2]


def test_nginx_takes_the_proxy(tmp_path: Path) -> None:
    nginx = needs("nginx")
    (tmp_path / "validators.conf").write_text("8.8.4.4/32 0;\n2001:4860:4860::8888/128 0;\n")
    text = (DEPLOY / "nginx" / "cascade.conf").read_text()
    (tmp_path / "cascade.conf").write_text(text.replace("/etc/nginx/cascade-validators.conf", "validators.conf"))
    (tmp_path / "nginx.conf").write_text("pid nginx.pid;\nevents {}\nhttp { include cascade.conf; }\n")
    command = [nginx, "-t", "-q", "-p", str(tmp_path), "-c", "nginx.conf", "-e", "stderr"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_nginx_hands_on_the_headers_that_a_dendrite_signs_in(tmp_path: Path) -> None:
    nginx = needs("nginx")
    seen: list[dict[str, str]] = []

    class Axon(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            seen.append({name.lower(): value for name, value in self.headers.items()})
            self.rfile.read(int(self.headers["content-length"]))
            self.send_response(204)
            self.end_headers()

        def log_message(self, *_: object) -> None:
            pass

    with HTTPServer(("127.0.0.1", 0), Axon) as axon:
        serve_beside(axon)
        port = free_port()
        text = (DEPLOY / "nginx" / "cascade.conf").read_text().replace("8191", str(axon.server_port))
        text = re.sub(r"8091\b", str(port), text).replace("/etc/nginx/cascade-validators.conf", "validators.conf")
        (tmp_path / "cascade.conf").write_text(text)
        (tmp_path / "validators.conf").write_text("127.0.0.1/32 0;\n")
        kept = "".join(f"{name}_temp_path {name};\n" for name in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi"))
        whole = f"daemon off;\npid nginx.pid;\nevents {{}}\nhttp {{ {kept} include cascade.conf; }}\n"
        (tmp_path / "nginx.conf").write_text(whole)
        tmp_path.chmod(0o755)
        proxy = subprocess.Popen([nginx, "-p", str(tmp_path), "-c", "nginx.conf", "-e", "stderr"])
        try:
            sent = {"bt_header_dendrite_hotkey": "5F", "x-signature": "0x1", "content-type": "application/json"}
            assert asked(port, sent) == 204
        finally:
            proxy.terminate()
            proxy.wait()
            axon.shutdown()
    assert seen[0].items() >= (sent | {"host": f"127.0.0.1:{port}"}).items()


def asked(port: int, headers: dict[str, str]) -> int:
    """The status of a reply, once somebody listens."""
    for _ in range(1200):
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
        try:
            connection.request("POST", "/ImageSynapse", b"{}", headers)
            return connection.getresponse().status
        except ConnectionRefusedError:
            time.sleep(0.05)
        finally:
            connection.close()
    raise AssertionError("nobody listens")


def test_nft_takes_the_firewall_and_a_list_of_validators(tmp_path: Path) -> None:
    nft = needs("nft")
    rules = (DEPLOY / "nftables" / "cascade.nft").read_text()
    named = "flush set inet cascade validators\nadd element inet cascade validators { 8.8.4.4/32 }\n"
    (tmp_path / "all.nft").write_text(rules + named)
    done = subprocess.run([nft, "-c", "-f", str(tmp_path / "all.nft")], capture_output=True, text=True, check=False)
    if "Operation not permitted" in done.stderr:
        pytest.skip("rules can be checked by an administrator alone")
    assert done.returncode == 0, done.stderr
