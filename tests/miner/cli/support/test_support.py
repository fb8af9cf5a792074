"""`cascade support`: an archive for somebody who helps from afar."""

from __future__ import annotations

import asyncio
import json
import stat
import tarfile
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from urllib.parse import quote

import pytest
from typer.testing import CliRunner

from miner.cli.main import app
from miner.cli.support.contents import LOG_BYTES, NIGHTS_TOLD, Part, gathered, log_end, parts
from miner.cli.support.redaction import HIDDEN, redaction
from miner.live_risk.summary import SUMMARY
from miner.nights.record import OUTPUT, RECORD, NightRecord, Nights, noted
from miner.settings import load_settings

COLDKEY = "5DAAnrj7VHTznn2AWBemMuyBwZWs6FNFjdyVXUeYum3PTXFy"
HOTKEY = "5GrwvaEF5zXb26Fz9rcQpDWS57CtERHpNehXCPcNoHGKutQY"
API_KEY = "sk-very-secret-0123456789"
NODE_KEY = "9f8e7d6c5b4a"
SETTINGS = f"""
state = "state"
store = "store"
[wallet]
name = "natix-vault"
hotkey = "one"
[chain]
kind = "offline"
snapshot = "chain.json"
endpoints = ["wss://node.example/v2/{NODE_KEY}", "finney"]
external_ip = "203.0.113.7"
[log]
json_lines = true
"""


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("OPENAI_API_KEY", API_KEY)
    (tmp_path / "cascade.toml").write_text(SETTINGS)
    wallet = tmp_path / ".bittensor" / "wallets" / "natix-vault"
    wallet.mkdir(parents=True)
    (wallet / "coldkeypub.txt").write_text(json.dumps({"ss58Address": COLDKEY, "accountId": "0xabcdef012345"}))
    (tmp_path / "state").mkdir()
    (tmp_path / "state" / "journal.jsonl").write_text("".join(f'{{"number":{number}}}\n' for number in range(500)))
    (tmp_path / "miner.log").write_text(
        f"wss://node.example/v2/{NODE_KEY} failed\n{tmp_path}/.bittensor/wallets/natix-vault/hotkeys/one\n"
        f"asked with {API_KEY}\ncoldkey {COLDKEY}\nhotkey {HOTKEY}\nthe hotkey natix-vault/one\n"
    )
    return tmp_path


def archive(*arguments: str) -> tuple[str, dict[str, str]]:
    """What is said, and the files of the archive."""
    done = CliRunner().invoke(app, ["support", "--yes", "--output", "help.tar.gz", *arguments])
    assert done.exit_code == 0, done.output
    with tarfile.open("help.tar.gz") as found:
        names = [member.name for member in found.getmembers()]
        return done.stdout, {
            name.removeprefix("cascade-support/"): (found.extractfile(name) or pytest.fail(name)).read().decode()
            for name in names
        }


def test_what_helps_is_in_it_and_is_listed_before(publish: Callable[..., str]) -> None:
    publish("live")
    said, files = archive("--log", "miner.log")
    assert {"versions.json", "settings.toml", "doctor.txt", "journal.jsonl", "logs/0-miner.log"} <= files.keys()
    assert {"bundle/manifest.json", "bundle/scrc_params.json"} <= files.keys()
    for name in files:
        assert name in said
    assert said.index("settings.toml") < said.index("help.tar.gz is written")
    assert [json.loads(line)["number"] for line in files["journal.jsonl"].splitlines()] == list(range(300, 500))
    assert json.loads(files["versions.json"])["packages"]["numpy"]
    assert "203.0.113.7" in files["settings.toml"]
    assert "cascade.toml" in files["settings.toml"]
    assert stat.S_IMODE(Path("help.tar.gz").stat().st_mode) == 0o600


def test_what_became_of_the_last_nights_and_how_the_certificate_stands_are_in_it(home: Path) -> None:
    """A night is a directory, of which nothing was taken."""
    state = home / "state"
    for day in range(1, NIGHTS_TOLD + 2):
        night = Nights(state).begin(datetime(2026, 3, day, tzinfo=UTC))
        (night / OUTPUT).write_text(f"said on day {day}\n")
        noted(night, outcome="failed", ended_at=datetime(2026, 3, day, 1, tzinfo=UTC), reason=f"reason {day}")
    token = NightRecord.read(night / RECORD).token
    (state / "live_risk").mkdir()
    (state / "live_risk" / SUMMARY).write_text("how it stands")
    (state / "live_risk" / "secret.key").write_bytes(b"the key of the draws, 32 bytes long")
    _, files = archive()
    told = json.loads(files["state/nights.json"])
    assert [one["reason"] for one in told] == [f"reason {day}" for day in range(1, NIGHTS_TOLD + 2)]
    outputs = {name: text for name, text in files.items() if name.endswith(OUTPUT)}
    assert sorted(outputs.values()) == [f"said on day {day}\n" for day in range(2, NIGHTS_TOLD + 2)]
    assert files[f"state/live_risk/{SUMMARY}"] == "how it stands"
    assert not any(token in text or "key of the draws" in text for text in files.values())


def test_nothing_in_it_names_the_wallet_or_holds_a_secret(home: Path) -> None:
    _, files = archive("--log", "miner.log")
    everything = "\n".join(files.values())
    for secret in ("natix-vault", COLDKEY, "0xabcdef012345", API_KEY, NODE_KEY, str(home)):
        assert secret not in everything
    assert HOTKEY in everything
    assert f"wss://node.example/{HIDDEN} failed" in files["logs/0-miner.log"]
    assert "wss://node.example" in files["settings.toml"]


def test_what_cannot_be_had_says_so_in_its_place(home: Path) -> None:
    (home / "state" / "journal.jsonl").unlink()
    said, files = archive("--set", "admin.port=9", "--log", "nowhere.log")
    assert files["journal.jsonl"].startswith("not there: ")
    assert files["status.json"].startswith("not there: ")
    assert "No such file" in files["logs/0-nowhere.log"]
    assert "not there: " in said


def test_a_directory_that_cannot_be_listed_costs_nothing_else(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(*_: object) -> None:
        raise PermissionError(13, "Permission denied", "nights")

    monkeypatch.setattr(Nights, "latest", refused)
    wanted = parts(load_settings(None, {"state": str(home)}), "", no_doctor, [])
    assert "settings.toml" in {part.name for part in wanted}
    told = {part.name: asyncio.run(gathered(part)) for part in wanted if part.name.endswith("not-listed.txt")}
    assert [text for text in told.values() if "Permission denied" in text]


def test_a_fault_of_this_program_is_in_it_and_costs_nothing_else() -> None:
    told = asyncio.run(gathered(Part("doctor.txt", "what cascade doctor says", no_doctor)))
    assert told.startswith("not there: KeyError('nobody foresaw it')\n")
    assert "in no_doctor" in told


async def no_doctor() -> str:
    raise KeyError("nobody foresaw it")


def test_a_file_that_is_there_is_not_written_over(home: Path) -> None:
    (home / "help.tar.gz").write_text("mine")
    done = CliRunner().invoke(app, ["support", "--yes", "--output", "help.tar.gz"])
    assert done.exit_code == 2
    assert (home / "help.tar.gz").read_text() == "mine"


def test_without_a_yes_nothing_is_written(home: Path) -> None:
    done = CliRunner().invoke(app, ["support", "--output", "help.tar.gz"], input="n\n")
    assert done.exit_code == 1
    assert "Write help.tar.gz?" in done.stdout
    assert not (home / "help.tar.gz").exists()


def test_the_end_of_a_long_log_begins_with_a_whole_line(home: Path) -> None:
    line = "x" * 99 + "\n"
    (home / "long.log").write_text(line * (LOG_BYTES // 100 + 100))
    end = log_end(home / "long.log")
    assert LOG_BYTES - 100 <= len(end) <= LOG_BYTES
    assert set(end.splitlines()) == {"x" * 99}


def test_the_key_of_a_stage2_server_does_not_leave(home: Path) -> None:
    (home / "key").write_text("in-a-file-4711\n")
    servers = '[{"kind":"openai","name":"vlm","url":"http://vlm","model":"m","key_file":"key"}]'
    settings = load_settings(changes={"stage2.servers": json.loads(servers)})
    text = redaction(settings, {}, home).text("Bearer in-a-file-4711")
    assert text == f"Bearer {HIDDEN}"


def test_what_a_server_of_ones_own_is_made_with_under_the_name_of_a_secret_does_not_leave(home: Path) -> None:
    (home / "cascade.toml").write_text(
        f'{SETTINGS}[[stage2.servers]]\nkind = "python"\nname = "mine"\nfile = "mine.py"\nfactory = "Mine"\n'
        'options = { region = "frankfurt", api_key = "in-the-options-1", more = [{ Password = "in-a-list-2" }] }\n'
    )
    settings = load_settings(home / "cascade.toml")
    text = redaction(settings, {}, home).text("frankfurt in-the-options-1 in-a-list-2")
    assert text == f"frankfurt {HIDDEN} {HIDDEN}"
    _, files = archive()
    assert "frankfurt" in files["settings.toml"]
    assert not any("in-the-options-1" in content or "in-a-list-2" in content for content in files.values())


HOOK = "https://discord.example/api/webhooks/1234/t0ken-Of_hook"


def test_where_alerts_go_does_not_leave(home: Path) -> None:
    (home / "ping").write_text("https://hc.example/ping/4711-0815?uuid=9f8e7d\n")
    settings = load_settings(changes={"alerts.url_env": "SLACK_URL", "alerts.ping_file": str(home / "ping")})
    hidden = redaction(settings, {"SLACK_URL": HOOK}, home)
    told = hidden.text(
        f"POST {HOOK}\nGET https://hc.example/ping/4711-0815?uuid=9f8e7d\nat /ping/4711-0815\nt0ken-Of_hook"
    )
    for secret in ("t0ken-Of_hook", "4711-0815", "9f8e7d"):
        assert secret not in told
    assert "https://discord.example/" in told


@pytest.mark.parametrize(
    "written",
    [
        json.dumps,
        lambda text: json.dumps(json.dumps(text)),
        lambda text: json.dumps(text, ensure_ascii=False),
        repr,
        lambda text: quote(text, safe=""),
        quote,
        lambda text: quote(text, safe="").lower(),
        lambda text: f"Traceback\nValueError: {text!r}",
    ],
)
def test_a_secret_is_found_however_it_is_written(written: Callable[[str], str]) -> None:
    secret = 'pä"ss\\wört/+%&7'
    settings = load_settings(changes={"wallet.name": "trésor", "wallet.path": "/srv/wällets"})
    hidden = redaction(settings, {"API_TOKEN": secret}, Path("/home/josé"))
    assert "rt" not in hidden.text(written(secret)).replace("left out", "")
    assert hidden.text(written("/home/josé/miner.log")).count("jos") == 0
    assert hidden.text(written("/srv/wällets/trésor/hotkeys/one")).count("sor") == 0
    assert hidden.text(written("trésor/one")).count("sor") == 0


def test_what_stands_before_the_host_of_any_address_does_not_leave(home: Path) -> None:
    changes = {"night": {"tracking": {"kind": "mlflow", "uri": "https://me:hunter2@mlflow.example/x"}}}
    text = redaction(load_settings(changes=changes), {}, home).text('uri = "https://me:hunter2@mlflow.example/x"')
    assert text == f'uri = "https://{HIDDEN}@mlflow.example/x"'


def test_a_key_in_the_query_of_an_endpoint_is_hidden_by_itself(home: Path) -> None:
    settings = load_settings(changes={"chain.endpoints": ["wss://node.example/rpc?apikey=abc%2Fdef99"]})
    told = redaction(settings, {}, home).text("bad key abc/def99, or abc%2Fdef99")
    assert told == f"bad key {HIDDEN}, or {HIDDEN}"
