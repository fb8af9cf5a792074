"""The dashboard: it is what its script makes, and asks for metrics, labels and words that there are."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

from deploy.grafana.dashboard import COLUMNS, FILE, RANKS, ROWS, dashboard, stands, text
from tests.support.promtool import promtool

ROOT = Path(__file__).parents[2]
# Held against a running miner by the tests of the administrator's endpoint.
METRICS = ROOT / "docs" / "metrics.md"
SUFFIX = re.compile(r"_(bucket|sum|count)$")


def described() -> dict[str, tuple[str, set[str]]]:
    """Kind and labels of each metric."""
    rows = re.findall(r"^\| `(\w+)` \| (counter|gauge|histogram) \|([^|]*)\|", METRICS.read_text(), re.MULTILINE)
    return {name: (kind, set(re.findall(r"`(\w+)`", labels))) for name, kind, labels in rows}


def panels() -> list[dict[str, Any]]:
    """Every panel, also those of a row that is folded."""
    made = dashboard(ROWS)["panels"]
    inside = [panel for row in made if row["type"] == "row" for panel in row["panels"]]
    return [panel for panel in made if panel["type"] != "row"] + inside


def queries() -> list[tuple[str, str]]:
    return [(query.expr, query.legend) for panels in ROWS.values() for panel in panels for query in panel.queries]


def test_the_file_is_what_the_script_makes() -> None:
    assert FILE.read_text() == text(), "run: python deploy/grafana/dashboard.py"


@pytest.mark.parametrize(("expr", "legend"), queries())
def test_a_panel_asks_for_what_there_is(expr: str, legend: str) -> None:
    known = described()
    names = set(re.findall(r"(?:cascade|process)_\w+", expr))
    # Prometheus makes it of its rules.
    assert names or expr.startswith("ALERTS{")
    for name in names:
        base = name if name in known else SUFFIX.sub("", name)
        assert base in known, name
        kind, labels = known[base]
        assert (SUFFIX.search(name) is None) == (kind != "histogram") or name == base
        for selector in re.findall(rf"{name}\{{([^}}]*)\}}", expr):
            asked = set(re.findall(r"(\w+)\s*[=!]~?\s*\"", selector))
            assert asked <= labels | {"instance", "job"}, selector
        if kind == "counter":
            assert re.search(rf"(rate|increase)\({name}", expr), f"{name} only ever grows"
    for group in re.findall(r"by \(([^)]*)\)", expr):
        every = set().union(*(known[SUFFIX.sub("", name) if name not in known else name][1] for name in names))
        assert {label.strip() for label in group.split(",")} <= every | {"le"}
    shown = set(re.findall(r"\{\{(\w+)\}\}", legend))
    assert shown <= set().union(*(labels for _, labels in known.values()))


# What a look at another metric tells as well, or a person looks up elsewhere.
UNDRAWN = {
    "cascade_bundle_generation",
    "cascade_bundle_standby",
    "cascade_bundle_leases",
    "cascade_certificate_delta_ratio",
    "cascade_chain_block",
    "cascade_metagraph_neurons",
    "cascade_nightly_running",
    "cascade_nightly_last_start_timestamp_seconds",
    "cascade_nightly_last_end_timestamp_seconds",
    "cascade_nightly_next_start_timestamp_seconds",
    "cascade_nightly_runs_total",
    "cascade_stage2_in_flight",
    "cascade_stage2_budget_spent_total",
    "cascade_stage2_budget_least_gain",
    "cascade_gpu_info",
    "cascade_gpu_memory_bytes",
    "cascade_gpu_ecc_corrected",
    "cascade_gpu_ecc_uncorrected",
    "process_virtual_memory_bytes",
    "process_start_time_seconds",
    "process_max_fds",
}


def test_every_other_metric_is_drawn() -> None:
    asked = " ".join(expr for expr, _ in queries())
    undrawn = {name for name in described() if not re.search(rf"\b{name}(_bucket|_sum|_count)?\b", asked)}
    assert {name for name in undrawn if not name.startswith("python_")} == UNDRAWN


def test_any_prometheus_may_be_the_source() -> None:
    made = dashboard(ROWS)
    source, miner = made["templating"]["list"]
    assert source["type"] == "datasource"
    used = [miner["datasource"], *(panel["datasource"] for panel in panels())]
    assert {one["uid"] for one in used} == {f"${{{source['name']}}}"}


def test_a_panel_is_of_one_miner_or_names_each() -> None:
    """Of several at once, the one that is ill would be lost in the sum."""
    for panel in (panel for row, panels in ROWS.items() if row != "Every miner" for panel in panels):
        for query in panel.queries:
            for name in re.findall(r"(?:cascade|process)_\w+", query.expr):
                assert re.search(rf'{name}\{{[^}}]*instance="\$instance"', query.expr), (panel.title, name)
    assert all(panel.kind == "table" and "instance=" not in panel.queries[0].expr for panel in ROWS["Every miner"])


def test_panels_stand_beside_each_other_and_never_on_each_other() -> None:
    taken: set[tuple[int, int]] = set()
    numbers = set()
    rows = [panel for panel in dashboard(ROWS)["panels"] if panel["type"] == "row"]
    for panel in rows + panels():
        place = panel["gridPos"]
        assert place["x"] + place["w"] <= COLUMNS
        cells = {
            (x, y)
            for x in range(place["x"], place["x"] + place["w"])
            for y in range(place["y"], place["y"] + place["h"])
        }
        assert not cells & taken, panel["title"]
        taken |= cells
        numbers.add(panel["id"])
    assert len(numbers) == len(rows) + len(panels())


def test_what_a_healthy_miner_lacks_does_not_look_like_a_fault() -> None:
    """A GPU, a refusal, a Stage-2 server: without a word for it Grafana says "No data"."""
    drawn = {panel["title"]: panel["fieldConfig"]["defaults"] for panel in panels()}
    without = {title for title, defaults in drawn.items() if "noValue" in defaults}
    assert {"Refusals by reason", "Servers", "Last night", "Temperature"} <= without
    # These every miner has, so that nothing there means that it is not reached.
    assert not {"Ready", "Certificate", "Replies by status", "Memory"} & without


def test_one_hotkey_is_named() -> None:
    (hotkeys,) = (panel for panel in panels() if panel["title"] == "Hotkeys on the subnet")
    assert hotkeys["options"]["textMode"] == "value_and_name"


def test_prometheus_reads_every_query(tmp_path: Path) -> None:
    # Grafana puts these in.
    filled = [expr.replace("$__rate_interval", "5m").replace("$instance", ".*") for expr, _ in queries()]
    rules: dict[str, Any] = {
        "groups": [{"name": "all", "rules": [{"record": f"r:{n}", "expr": expr} for n, expr in enumerate(filled)]}]
    }
    (tmp_path / "rules.yml").write_text(json.dumps(rules))
    promtool("check", "rules", tmp_path / "rules.yml", ROOT / "deploy" / "prometheus" / "alerts.yml")


@pytest.mark.parametrize(("state", "rank"), [("closed", 1), ("half_open", 2), ("open", 3), ("unheard_of", 3)])
def test_a_state_that_is_not_good_is_not_green(tmp_path: Path, state: str, rank: int) -> None:
    asked = stands("m", "state", "closed", "half_open").expr.replace("$instance", "one")
    states = {"closed", "half_open", "open", state}
    series = [{"series": f'm{{instance="one", state="{one}"}}', "values": str(int(one == state))} for one in states]
    got = [{"labels": f'{{instance="one", state="{state}"}}', "value": rank}]
    test = {"input_series": series, "promql_expr_test": [{"expr": asked, "eval_time": "0m", "exp_samples": got}]}
    (tmp_path / "test.yml").write_text(json.dumps({"rule_files": [], "tests": [{"interval": "1m", **test}]}))
    promtool("test", "rules", tmp_path / "test.yml")


def test_whatever_ranks_states_is_coloured_by_them() -> None:
    for panel in (panel for panels in ROWS.values() for panel in panels):
        ranked = any(" or 3 * (" in query.expr for query in panel.queries)
        assert ranked == (panel.limits == RANKS), panel.title
        # By its labels alone a state would be green whatever it is.
        assert (
            panel.kind != "stat"
            or panel.words
            or panel.limits
            or "{{" not in panel.queries[0].legend
            or (panel.title == "Live bundle")
        ), panel.title
