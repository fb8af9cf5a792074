from __future__ import annotations

import json
import subprocess
import sys

import pytest

from miner.logs import configure_logging

SCRIPT = """
import logging, sys
import structlog
from miner.logs import configure_logging, repair_loggers_after_bittensor

existing = logging.getLogger("uvicorn.error")
log = structlog.get_logger("miner.axon.app")
configure_logging("INFO")
{load}
{repair}
existing.info("listening on %s", 8091)
log.info("ready", port=8091)
log.debug("hidden")
logging.getLogger("bittensor").warning("from the sdk")
try:
    raise RuntimeError("broken")
except RuntimeError:
    log.exception("failed")
"""


def logged(*, load: str = "", repair: str = "", json_lines: bool = True) -> tuple[list, str]:
    script = SCRIPT.format(load=load, repair=repair)
    if not json_lines:
        script = script.replace('configure_logging("INFO")', 'configure_logging("INFO", json=False)')
    command = [sys.executable, "-W", "error", "-c", script]
    done = subprocess.run(command, capture_output=True, text=True, timeout=600, check=True)
    if not json_lines:
        return done.stderr.splitlines(), done.stdout
    return [json.loads(line) for line in done.stderr.splitlines()], done.stdout


def events(records: list, logger: str) -> list[str]:
    return [record["event"] for record in records if record["logger"] == logger]


def test_both_worlds_write_json_to_standard_error():
    records, stdout = logged()
    assert stdout == ""
    assert events(records, "uvicorn.error") == ["listening on 8091"]
    assert events(records, "miner.axon.app") == ["ready", "failed"]
    ready, failed = (record for record in records if record["logger"] == "miner.axon.app")
    assert (ready["port"], ready["level"]) == (8091, "info")
    assert ready["timestamp"].endswith("Z")
    assert "RuntimeError: broken" in failed["exception"]


def test_a_warning_of_a_library_is_a_line_of_json_as_well():
    script = (
        "import warnings; from miner.logs import configure_logging; configure_logging();"
        "warnings.warn('use another one', stacklevel=1)"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=600, check=True)
    [record] = map(json.loads, done.stderr.splitlines())
    assert (record["level"], "use another one" in record["event"]) == ("warning", True)


def test_text_for_people():
    lines, _ = logged(json_lines=False)
    assert any("listening on 8091" in line for line in lines)
    assert any("ready" in line and "port" in line and "8091" in line for line in lines)
    assert any("RuntimeError: broken" in line for line in lines)


def test_importing_bittensor_silences_loggers_and_the_repair_undoes_it():
    silenced, _ = logged(load="import bittensor")
    assert events(silenced, "uvicorn.error") == []

    repaired, stdout = logged(load="import bittensor", repair="repair_loggers_after_bittensor()")
    assert events(repaired, "uvicorn.error") == ["listening on 8091"]
    assert events(repaired, "bittensor")[-1:] == ["from the sdk"]
    assert "from the sdk" not in stdout


def test_a_level_that_does_not_exist_is_named():
    with pytest.raises(ValueError, match="'LOUD'"):
        configure_logging("LOUD")


def test_what_a_library_says_is_the_same_from_run_to_run():
    script = (
        "import io, logging, structlog; from miner.logs import configure_logging; configure_logging();"
        "structlog.get_logger('a').info('failed', reason=f'cannot read {io.BytesIO()!r}');"
        "logging.getLogger('b').info('cannot read %r', io.BytesIO())"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=240, check=True)
    first, second = map(json.loads, done.stderr.splitlines())
    assert first["reason"] == second["event"] == "cannot read <_io.BytesIO object>"


def test_a_line_for_each_request_to_stage2_is_left_to_the_miner() -> None:
    load = """http = logging.getLogger("httpx2")
http.info("HTTP Request")
http.warning("odd")
configure_logging("DEBUG")
http.info("wanted")
configure_logging("INFO")"""
    lines, _ = logged(load=load, repair="repair_loggers_after_bittensor()\nhttp.info('HTTP Request again')")
    assert [line["event"] for line in lines if line["logger"] == "httpx2"] == ["odd", "wanted"]


def test_a_request_of_ours_is_told_without_what_follows_its_host() -> None:
    # The address of an alert is a secret, and what follows the host is the part that makes it one.
    load = """import httpx2
configure_logging("DEBUG")
url = httpx2.URL("https://user:secret@discord.example:8443/api/webhooks/7/secret?token=secret")
logging.getLogger("httpx2").info('HTTP Request: %s %s "%s %d %s"', "POST", url, "HTTP/1.1", 204, "")
configure_logging("INFO")"""
    lines, _ = logged(load=load)
    (line,) = [line for line in lines if line["logger"] == "httpx2"]
    assert line["event"] == 'HTTP Request: POST https://discord.example:8443 "HTTP/1.1 204 "'
