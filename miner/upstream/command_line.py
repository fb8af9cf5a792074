"""A command line of the reference miner, taken apart into its own flags and everything else."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from difflib import get_close_matches

from miner.upstream.flag_table import FLAGS, SHARED, is_on
from stage1.errors import SettingsError

# None of our own options has a dot or an underscore in its name.
_THEIRS = re.compile(r"--[\w-]*[._][\w.-]*\Z")
_A_NUMBER = re.compile(r"-\d")


@dataclass(frozen=True)
class Parted:
    """A command line in two.

    Attributes:
        given: values by flag of the reference miner; of a flag that is given twice the last one, as it did.
        rest: everything else, in order.
        empty: flags of the reference miner whose value is empty.
    """

    given: dict[str, str]
    rest: list[str]
    empty: frozenset[str] = frozenset()


def part(arguments: Sequence[str]) -> Parted:
    """Take the flags of the reference miner out of a command line.

    A flag without a value, as `$MODEL_URL` leaves it behind where that is empty, and one whose value is empty count as
    not given. `--a b` and `--a=b` are the same.

    Args:
        arguments: words, as a shell hands them over.

    Raises:
        SettingsError: a word looks like a flag of the reference miner, and is none; names a near one.
    """
    given: dict[str, str] = {}
    rest: list[str] = []
    empty: set[str] = set()
    words = list(arguments)
    while words:
        word = words.pop(0)
        name, equals, value = word.partition("=")
        if word == "--":
            rest += [word, *words]
            break
        if name not in FLAGS:
            _check(name)
            rest.append(word)
            continue
        if not equals and words and _is_value(words[0], switch=FLAGS[name].switch):
            value = words.pop(0)
        elif not equals and FLAGS[name].switch:
            value = "True"
        if not value.strip():
            empty.add(name)
            continue
        if name in SHARED:
            rest += [name, value]
        else:
            given[name] = value
    return Parted(given, rest, frozenset(empty - given.keys()))


def _is_value(word: str, *, switch: bool) -> bool:
    if switch:
        return not word or is_on(word) is not None
    return not word.startswith("-") or _A_NUMBER.match(word) is not None


def _check(name: str) -> None:
    if _THEIRS.match(name):
        near = get_close_matches(name, FLAGS, n=1)
        raise SettingsError(f"No such option: {name}" + (f" Did you mean {near[0]}?" if near else ""))
