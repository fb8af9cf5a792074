"""miner.env as setup_env.sh writes it and people edit it, and the SDK's own YAML."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from miner.upstream.env_file import MOST_BYTES, read_env_file, read_yaml_config
from stage1.errors import SettingsError

ODD = """\
# Default options
A=cpu             # Options: cpu, cuda
export B=two
C="in # quotes"   # a comment
D='single $A'
E=
F=a#b
G=${A}-x
H = spaced
"""


def written(tmp_path: Path, content: str | bytes, name: str = "miner.env") -> Path:
    path = tmp_path / name
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


def test_it_is_read_as_the_shell_that_sourced_it_did(tmp_path: Path) -> None:
    path = written(tmp_path, ODD.replace("H = spaced\n", ""))
    script = f"set -a; . {path}; for n in A B C D E F G; do printf '%s=%s\\n' $n \"$(printenv $n)\"; done"
    by_shell = subprocess.run(["bash", "-euc", script], capture_output=True, text=True, check=True).stdout
    assert read_env_file(path) == dict(line.split("=", 1) for line in by_shell.splitlines())


def test_blanks_around_the_sign_and_ends_of_lines_of_windows_are_borne(tmp_path: Path) -> None:
    found = read_env_file(written(tmp_path, b"\xef\xbb\xbfA=1\r\nH = spaced # x\r\nONLY_A_NAME\r\n"))
    assert found == {"A": "1", "H": "spaced", "ONLY_A_NAME": ""}


def test_a_line_that_is_no_assignment_is_named(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match=r"miner\.env, line 2: 'B=\"open' is not NAME=VALUE"):
        read_env_file(written(tmp_path, 'A=1\nB="open\n'))


@pytest.mark.parametrize(
    ("content", "why"),
    [
        (b"A=\xff\n", "line 1: is not UTF-8"),
        (b"A=1\nB=\0\n", "line 2: has a NUL"),
        (b"#" * (MOST_BYTES + 1), "is longer than"),
    ],
)
def test_what_is_no_env_file_is_told(tmp_path: Path, content: bytes, why: str) -> None:
    with pytest.raises(SettingsError, match=why):
        read_env_file(written(tmp_path, content))


def test_a_file_that_is_not_there_is_told(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="cannot be read"):
        read_env_file(tmp_path / "none")
    with pytest.raises(SettingsError, match="cannot be read"):
        read_env_file(tmp_path)


def test_a_config_of_the_sdk_gives_values_by_flag(tmp_path: Path) -> None:
    text = "netuid: 323\naxon:\n  port: 9001\n  ip:\nblacklist:\n  force_validator_permit: false\n"
    assert read_yaml_config(written(tmp_path, text, "c.yaml")) == {
        "--netuid": "323",
        "--axon.port": "9001",
        "--blacklist.force_validator_permit": "false",
    }
    assert read_yaml_config(written(tmp_path, "", "c.yaml")) == {}


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("- 1\n", "no mapping"),
        ("a: [\n", "not valid YAML"),
        ("axon: {prot: 1}\n", "--axon.prot: the reference miner has no such flag"),
        ("!!python/object/apply:os.system ['true']\n", "no mapping"),
    ],
)
def test_what_is_no_config_of_the_sdk_is_told(tmp_path: Path, text: str, why: str) -> None:
    with pytest.raises(SettingsError, match=why):
        read_yaml_config(written(tmp_path, text, "c.yaml"))
