"""Makes the Grafana dashboard of a miner, `cascade.json`, from the list of panels below.

    python deploy/grafana/dashboard.py

Every metric that a panel asks for stands in docs/metrics.md, which a test holds against a running miner.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

FILE = Path(__file__).with_name("cascade.json")
# The grid of Grafana.
COLUMNS, ROW_HEIGHT = 24, 8
HERE = 'instance="$instance"'
# Whichever data source the person chose.
SOURCE = {"type": "prometheus", "uid": "${source}"}
RATE = "$__rate_interval"
Kind = Literal["timeseries", "stat", "table"]


@dataclass(frozen=True)
class Query:
    """A line of a panel.

    Attributes:
        expr: PromQL.
        legend: its name, with labels in double braces.
    """

    expr: str
    legend: str = ""


@dataclass(frozen=True)
class Panel:
    """One panel.

    Attributes:
        title: above it.
        queries: its lines.
        unit: as Grafana calls it.
        kind: how it is drawn.
        says: what one should know to read it.
        width: columns of the grid.
        words: what stands for a value, by value.
        limits: values from which on it is yellow and red; two dashed lines where it is drawn over time.
        least: lower end of the axis, None where values may be negative.
        reach: the axis goes up to it at least; without it, that of a share ends at 1.
        optional: a healthy miner may have nothing of it. Grafana's "No data" would look like a fault.
        columns: of a table, what is called by another name, or left out where the name is empty.
    """

    title: str
    queries: tuple[Query, ...]
    unit: str = "short"
    kind: Kind = "timeseries"
    says: str = ""
    width: int = 8
    words: tuple[tuple[str, str, str], ...] = ()
    limits: tuple[float, float] | None = None
    least: float | None = 0
    reach: float | None = None
    optional: bool = False
    columns: tuple[tuple[str, str], ...] = ()


def quantiles(metric: str) -> tuple[Query, ...]:
    """Median and 99 % of a histogram."""
    rate = f"sum by (le) (rate({metric}_bucket{{{HERE}}}[{RATE}]))"
    return tuple(Query(f"histogram_quantile({q}, {rate})", f"p{100 * q:g}") for q in (0.5, 0.99))


def rates(metric: str, label: str, more: str = "") -> Query:
    """Events a second of a counter, by a label."""
    return Query(f"sum by ({label}) (rate({metric}{{{HERE}{more}}}[{RATE}]))", f"{{{{{label}}}}}")


def stands(metric: str, label: str, good: str, middling: str, legend: str = "") -> Query:
    """The state that holds of those that a label names, as 1 where it is good, 2 where it is middling, or else 3."""
    known = {1: f'{label}=~"{good}"', 2: f'{label}=~"{middling}"', 3: f'{label}!~"{good}|{middling}"'}
    parts = (f"{rank} * ({metric}{{{HERE}, {chosen}}} == 1)" for rank, chosen in known.items())
    # The worst of several stands first.
    return Query(f"sort_desc({' or '.join(parts)})", legend or f"{{{{{label}}}}}")


# Rows of what few miners have.
FOLDED = {"Stage-1 by servers"}
# Of what `stands` gives.
RANKS = (2.0, 3.0)
YES_NO = (("0", "no", "red"), ("1", "yes", "green"))
DAY_S = 86400
ROWS: dict[str, tuple[Panel, ...]] = {
    "Every miner": (
        Panel(
            "Alerts that fire",
            (Query('ALERTS{alertname=~"Cascade.+", alertstate="firing"}'),),
            kind="table",
            says="By the rules of deploy/prometheus/alerts.yml, of all miners. What to do stands with each rule.",
            width=12,
            optional=True,
            columns=(
                ("Time", ""),
                ("Value", ""),
                ("__name__", ""),
                ("alertstate", ""),
                ("job", ""),
                ("alertname", "alert"),
                ("instance", "miner"),
            ),
        ),
        Panel(
            "Conditions that do not hold",
            (Query("cascade_ready == 0"),),
            kind="table",
            says="A miner that is not ready answers all the same where it can.",
            width=12,
            optional=True,
            columns=(("Time", ""), ("Value", ""), ("__name__", ""), ("job", ""), ("instance", "miner")),
        ),
    ),
    "Now": (
        Panel(
            "Ready",
            (Query(f"min by (condition) (cascade_ready{{{HERE}}})", "{{condition}}"),),
            "short",
            "stat",
            "A miner that is not ready answers all the same where it can.",
            8,
            YES_NO,
        ),
        Panel(
            "Certificate",
            (
                stands(
                    "cascade_certificate_info",
                    "status",
                    "CERTIFIED",
                    "INFEASIBLE",
                    "{{status}} · {{risk}} · by {{unit}}",
                ),
            ),
            "short",
            "stat",
            "CERTIFIED, with the risk and what counts once; or INFEASIBLE: then everything is handed to Stage-2.",
            8,
            limits=RANKS,
        ),
        Panel(
            "Live bundle",
            (Query(f"cascade_bundle_info{{{HERE}}}", "{{bundle}} · {{policy}} · {{stream}}"),),
            "short",
            "stat",
            "",
            8,
        ),
        Panel(
            "Age of the model",
            (Query(f"floor((time() - cascade_bundle_created_timestamp_seconds{{{HERE}}}) / {DAY_S})", "age"),),
            # Grafana would make weeks of days.
            "suffix: days",
            "stat",
            "NATIX pays a model in full for 90 days.",
            4,
            (),
            (80, 90),
        ),
        Panel(
            "Hotkeys on the subnet",
            (Query(f"cascade_hotkey_registered{{{HERE}}}", "{{hotkey}}"),),
            "short",
            "stat",
            "",
            8,
            YES_NO,
        ),
        Panel(
            "Answers in the last day",
            (Query(f'round(sum(increase(cascade_requests_total{{{HERE}, status="200"}}[1d])))'),),
            "short",
            "stat",
            "",
            4,
        ),
        Panel(
            "Degraded, last day",
            (
                Query(
                    f"(sum(increase(cascade_degraded_answers_total{{{HERE}}}[1d])) or vector(0)) / "
                    f"sum(increase(cascade_answers_total{{{HERE}}}[1d]))"
                ),
            ),
            "percentunit",
            "stat",
            "Answers that had to do without Stage-1, or without the Stage-2 that they were handed to.",
            4,
            (),
            (0.01, 0.05),
        ),
        Panel(
            "Last night",
            (stands("cascade_nightly_last_outcome", "outcome", "done", "put_off|stopped"),),
            "short",
            "stat",
            "How it ended.",
            4,
            limits=RANKS,
            optional=True,
        ),
        Panel(
            "Verdict of the last night",
            (stands("cascade_nightly_last_verdict", "verdict", "PROMOTE|KEEP", "REFUSE"),),
            "short",
            "stat",
            "PROMOTE is live; KEEP stands by as a challenger; REFUSE was removed. cascade runs list says why.",
            12,
            limits=RANKS,
            optional=True,
        ),
        Panel(
            "Nights that failed in a row",
            (Query(f"cascade_nightly_failures_in_a_row{{{HERE}}}", "nights"),),
            "short",
            "stat",
            "",
            12,
            (),
            (1, 3),
        ),
    ),
    "Requests": (
        Panel("Replies by status", (rates("cascade_requests_total", "status"),), "reqps"),
        Panel(
            "Time of an answer",
            quantiles("cascade_request_duration_seconds"),
            "s",
            says="An answer is due after 7 s; the validator leaves after 9.",
            limits=(7, 9),
        ),
        Panel("Refusals by reason", (rates("cascade_refusals_total", "reason"),), "reqps", optional=True),
        Panel(
            "Requests and connections",
            (
                Query(f"sum(cascade_requests_in_flight{{{HERE}}})", "requests"),
                Query(f"sum(cascade_connections{{{HERE}}})", "connections"),
            ),
        ),
        Panel(
            "Degraded answers by reason",
            (rates("cascade_degraded_answers_total", "reason"),),
            "reqps",
            optional=True,
        ),
        Panel("Answers by result", (rates("cascade_answers_total", "result"),), "reqps"),
    ),
    "Stage-1": (
        Panel(
            "Exits and hand-offs",
            (rates("cascade_answers_total", "action", ', action!=""'),),
            "reqps",
            says="What exits is answered by Stage-1; what defers goes to Stage-2.",
        ),
        Panel("How sure Stage-1 is", (rates("cascade_answers_total", "decision", ', decision!=""'),), "reqps"),
        Panel("Decoding and Stage-1", quantiles("cascade_stage1_duration_seconds"), "s"),
        Panel(
            "Images of one engine call",
            (
                Query(
                    f"rate(cascade_batch_size_sum{{{HERE}}}[{RATE}]) "
                    f"/ rate(cascade_batch_size_count{{{HERE}}}[{RATE}])",
                    "mean",
                ),
            ),
        ),
        Panel("Images that wait", (Query(f"cascade_queued_images{{{HERE}}}", "waiting"),)),
        Panel(
            "Images that were lost",
            (
                Query(f"rate(cascade_expired_images_total{{{HERE}}}[{RATE}])", "too late"),
                Query(f"rate(cascade_failed_images_total{{{HERE}}}[{RATE}])", "engine failed"),
            ),
            "suffix: /s",
        ),
    ),
    "Stage-1 by servers": (
        Panel(
            "Servers of Stage-1",
            (stands("cascade_stage1_server_state", "state", "up", "late", "{{server}}: {{state}}"),),
            "short",
            "stat",
            "Without them this process computes by itself.",
            24,
            limits=RANKS,
            optional=True,
        ),
        Panel(
            "Batches under way",
            (Query(f"cascade_stage1_server_in_flight{{{HERE}}}", "{{server}}"),),
            optional=True,
        ),
        Panel(
            "Batches by who computed them",
            (
                rates("cascade_stage1_server_batches_total", "server"),
                Query(f"rate(cascade_stage1_own_batches_total{{{HERE}}}[{RATE}])", "this process"),
            ),
            "suffix: /s",
            optional=True,
        ),
        Panel(
            "Permissions lost",
            (rates("cascade_stage1_server_failures_total", "server"),),
            "suffix: /s",
            says="How often a server lost its permission to answer.",
            optional=True,
        ),
    ),
    "Stage-2": (
        Panel("Hand-offs by outcome", (rates("cascade_stage2_handoffs_total", "outcome"),), "reqps"),
        Panel("Time of a hand-off", quantiles("cascade_stage2_duration_seconds"), "s"),
        Panel(
            "Under way and waiting",
            (
                Query(f"cascade_stage2_server_in_flight{{{HERE}}}", "{{server}}"),
                Query(f"cascade_stage2_waiting{{{HERE}}}", "waiting"),
            ),
        ),
        Panel(
            "Servers",
            (stands("cascade_stage2_server_state", "state", "closed", "half_open", "{{server}}: {{state}}"),),
            "short",
            "stat",
            "Closed: asked. Open: left alone after failures. Half open: asked again by one probe.",
            24,
            limits=RANKS,
            optional=True,
        ),
        Panel(
            "Hand-offs that the budget pays for",
            (Query(f"cascade_stage2_budget_affordable_ratio{{{HERE}}}", "share"),),
            "percentunit",
            says="Stage-1 answers the others.",
            optional=True,
        ),
        Panel(
            "Budget that could be spent now",
            (
                Query(f'cascade_stage2_budget{{{HERE}, what="available"}}', "{{unit}}"),
                Query(f'cascade_stage2_budget{{{HERE}, what="limit"}}', "{{unit}} of a period"),
            ),
            optional=True,
        ),
        Panel(
            "Failures of Stage-2 by error", (rates("cascade_stage2_failures_total", "error"),), "reqps", optional=True
        ),
        Panel(
            "Calibration of the servers",
            (
                stands(
                    "cascade_stage2_calibration_state", "state", "current", "unchecked|none", "{{server}}: {{state}}"
                ),
            ),
            "short",
            "stat",
            "cascade stage2 evaluate makes it.",
            8,
            limits=RANKS,
            optional=True,
        ),
        Panel(
            "Hedges and shared verdicts",
            (rates("cascade_stage2_hedges_total", "did"), rates("cascade_stage2_shared_total", "call")),
            "reqps",
            width=16,
            optional=True,
        ),
    ),
    "Certificate and bundle": (
        Panel(
            "Exit coverage on the calibration rows",
            (Query(f"cascade_calibration_exit_coverage_ratio{{{HERE}}}", "{{estimate}}"),),
            "percentunit",
            optional=True,
        ),
        Panel(
            "Exits of live traffic",
            (
                Query(
                    f'(sum(rate(cascade_answers_total{{{HERE}, action="EXIT"}}[1h])) or vector(0)) / '
                    f'sum(rate(cascade_answers_total{{{HERE}, action=~".+"}}[1h]))',
                    "exit",
                ),
            ),
            "percentunit",
            says="Far from the exit coverage of the calibration rows, the traffic is another one.",
        ),
        Panel(
            "Swaps and refused bundles",
            (
                Query(f"increase(cascade_bundle_swaps_total{{{HERE}}}[1d])", "swaps in a day"),
                Query(f"increase(cascade_bundle_refusals_total{{{HERE}}}[1d])", "refused in a day"),
            ),
        ),
    ),
    "Whether the certificate still holds": (
        Panel(
            "Level",
            (stands("cascade_live_risk_level", "level", "ok", "watch"),),
            "short",
            "stat",
            "ok, watch or alarm; cascade risk show says why and what to do.",
            limits=RANKS,
        ),
        Panel(
            "Watched risk by audits",
            (
                Query(f"cascade_live_risk_ratio{{{HERE}}}", "risk"),
                Query(f"cascade_live_risk_lower_ratio{{{HERE}}}", "lower end"),
                Query(f"cascade_live_risk_upper_ratio{{{HERE}}}", "upper end"),
                Query(f"cascade_certificate_risk_limit_ratio{{{HERE}}}", "certified limit"),
            ),
            "percentunit",
            says="An alarm is proof that the risk is above its limit, and not an interval that reaches over it.",
            # On an axis up to 100 % the usual limit of 2 % would lie at the bottom.
            reach=0.05,
            optional=True,
        ),
        Panel(
            "Evidence against it",
            (
                Query(f"cascade_live_risk_e_value{{{HERE}}}", "e-value, an alarm at 1 / delta"),
                Query(f"cascade_live_risk_change{{{HERE}}}", "change, an alarm at the run length"),
                Query(f"cascade_live_risk_drift{{{HERE}}}", "drift of scores, no risk"),
            ),
        ),
        Panel(
            "Audits",
            (
                Query(f"cascade_live_risk_waiting{{{HERE}}}", "wait"),
                Query(f"cascade_live_risk_for_people{{{HERE}}}", "wait for a person"),
            ),
        ),
        Panel(
            "Oldest audit that is not counted",
            (Query(f"cascade_live_risk_oldest_hours{{{HERE}}}", "age"),),
            "h",
            optional=True,
        ),
        Panel(
            "Exits as no roadwork",
            (Query(f"cascade_live_risk_exits_as_0{{{HERE}}}", "allowed"),),
            "short",
            "stat",
            "No where the watch holds them back after an alarm, or where the certificate allows none.",
            words=YES_NO,
            optional=True,
        ),
        Panel(
            "Shift of the exit threshold",
            (Query(f"cascade_live_risk_theta_logits{{{HERE}}}", "logits taken off t0"),),
            width=24,
            least=None,
        ),
    ),
    "Chain and night": (
        Panel(
            "Age of the metagraph", (Query(f"time() - cascade_metagraph_read_timestamp_seconds{{{HERE}}}", "age"),), "s"
        ),
        Panel("Readings that failed", (Query(f"increase(cascade_chain_failures_total{{{HERE}}}[1h])", "in an hour"),)),
        Panel(
            "Since the last night that succeeded",
            (Query(f"(time() - cascade_nightly_last_success_timestamp_seconds{{{HERE}}}) / 3600", "since"),),
            "h",
            limits=(24, 36),
            optional=True,
        ),
    ),
    "GPU": (
        Panel(
            "Faults",
            (Query(f"cascade_gpu_fault{{{HERE}}}", "{{gpu}} {{fault}}"),),
            "short",
            "stat",
            "cascade doctor says what to do about each.",
            24,
            limits=(0.5, 1.0),
            optional=True,
        ),
        Panel(
            "Utilisation", (Query(f"cascade_gpu_utilisation_ratio{{{HERE}}}", "{{gpu}}"),), "percentunit", optional=True
        ),
        Panel(
            "Memory of the GPU", (Query(f"cascade_gpu_memory_used_bytes{{{HERE}}}", "{{gpu}}"),), "bytes", optional=True
        ),
        Panel(
            "Temperature", (Query(f"cascade_gpu_temperature_celsius{{{HERE}}}", "{{gpu}}"),), "celsius", optional=True
        ),
        Panel("Power", (Query(f"cascade_gpu_power_watts{{{HERE}}}", "{{gpu}}"),), "watt", width=12, optional=True),
        Panel(
            "Clocks that are low",
            (Query(f"cascade_gpu_slowed{{{HERE}}}", "{{gpu}} {{reason}}"),),
            width=12,
            optional=True,
        ),
    ),
    "Process": (
        Panel("CPU", (Query(f'rate(process_cpu_seconds_total{{job="cascade", {HERE}}}[{RATE}])', "cores"),)),
        Panel("Memory", (Query(f'process_resident_memory_bytes{{job="cascade", {HERE}}}', "resident"),), "bytes"),
        Panel(
            "Threads and files",
            (
                Query(f"cascade_process_threads{{{HERE}}}", "threads"),
                Query(f'process_open_fds{{job="cascade", {HERE}}}', "open files"),
            ),
        ),
        Panel(
            "Wait for a disk",
            (Query(f"cascade_disk_wait_seconds{{{HERE}}}", "{{disk}}"),),
            "s",
            says="Requests are answered meanwhile. An alarm after half a minute.",
            width=12,
            limits=(5, 30),
        ),
        Panel(
            "Failures of what is kept and told",
            (
                rates("cascade_journal_failures_total", "reason"),
                rates("cascade_scrape_failures_total", "part"),
                rates("cascade_live_risk_failures_total", "reason"),
            ),
            "suffix: /s",
            width=12,
            optional=True,
        ),
    ),
}


def dashboard(rows: dict[str, tuple[Panel, ...]]) -> dict[str, Any]:
    """The dashboard as Grafana reads it.

    Args:
        rows: panels by the heading above them.
    """
    return {
        "uid": "cascade-miner",
        "title": "Cascade miner",
        "description": "Made by deploy/grafana/dashboard.py; change it there.",
        "tags": ["cascade", "bittensor"],
        "schemaVersion": 39,
        "editable": True,
        "timezone": "browser",
        "refresh": "30s",
        "time": {"from": "now-24h", "to": "now"},
        "templating": {"list": [_source(), _miner()]},
        "panels": list(_panels(rows)),
    }


def _source() -> dict[str, Any]:
    return {"name": "source", "label": "Prometheus", "type": "datasource", "query": "prometheus", "refresh": 1}


def _miner() -> dict[str, Any]:
    # One at a time: what several miners have in common hides the one that is ill. The first row is of all.
    return {
        "name": "instance",
        "label": "Miner",
        "type": "query",
        "datasource": SOURCE,
        "query": {"query": "label_values(cascade_ready, instance)", "refId": "instance"},
        "refresh": 2,
        "sort": 1,
        "includeAll": False,
        "multi": False,
    }


def _panels(rows: dict[str, tuple[Panel, ...]]) -> Iterator[dict[str, Any]]:
    number, top = 1, 0
    for title, panels in rows.items():
        row = {"id": number, "type": "row", "title": title, "gridPos": _place(0, top, COLUMNS, 1), "panels": []}
        number, top = number + 1, top + 1
        drawn: list[dict[str, Any]] = []
        for line in _lines(panels):
            left, height = 0, max(_height(panel) for panel in line)
            for panel in line:
                drawn.append(_drawn(panel, number, _place(left, top, panel.width, height)))
                number, left = number + 1, left + panel.width
            top += height
        # What is folded stands in its row, and takes its place where somebody opens it.
        yield row | ({"collapsed": True, "panels": drawn} if title in FOLDED else {})
        yield from () if title in FOLDED else drawn


def _lines(panels: Iterable[Panel]) -> Iterator[list[Panel]]:
    """Panels that stand beside each other."""
    line: list[Panel] = []
    for panel in panels:
        if sum(one.width for one in line) + panel.width > COLUMNS:
            yield line
            line = []
        line.append(panel)
    yield line


def _height(panel: Panel) -> int:
    return {"stat": ROW_HEIGHT // 2, "table": 6}.get(panel.kind, ROW_HEIGHT)


def _place(left: int, top: int, width: int, height: int) -> dict[str, int]:
    return {"x": left, "y": top, "w": width, "h": height}


def _drawn(panel: Panel, number: int, place: dict[str, int]) -> dict[str, Any]:
    steps: list[dict[str, Any]] = [{"color": "transparent" if panel.kind == "timeseries" else "green", "value": None}]
    if panel.limits is not None:
        steps += [{"color": "yellow", "value": panel.limits[0]}, {"color": "red", "value": panel.limits[1]}]
    options = {value: {"text": text, "color": color} for value, text, color in panel.words}
    drawn: dict[str, Any] = {
        "id": number,
        "type": panel.kind,
        "title": panel.title,
        "description": panel.says,
        "datasource": SOURCE,
        "gridPos": place,
        "fieldConfig": {
            "defaults": {
                "unit": panel.unit,
                **({} if panel.least is None else {"min": panel.least}),
                **({"max": 1} if _is_share(panel) and panel.reach is None else {}),
                **({"noValue": "none known"} if panel.optional else {}),
                "custom": _axis(panel) | _lines_of_limits(panel),
                "color": {"mode": "thresholds" if panel.kind == "stat" else "palette-classic"},
                "thresholds": {"mode": "absolute", "steps": steps},
                "mappings": [{"type": "value", "options": options}] if options else [],
            },
            "overrides": [],
        },
        "targets": list(_targets(panel.queries, panel.kind)),
    }
    if panel.kind == "stat":
        # What has no number worth reading is read by its labels.
        named = panel.queries[0].legend.startswith("{{") and not panel.words
        drawn["options"] = {
            "reduceOptions": {"calcs": ["lastNotNull"]},
            # Of one value alone Grafana would leave out the name, as that of the hotkey.
            "textMode": "name" if named else "value_and_name" if panel.words else "auto",
            "colorMode": "background" if panel.words else "value",
            "graphMode": "none",
            # Names are as long as an address; larger ones are cut off.
            "text": {"valueSize": 20} if named else {"titleSize": 14},
        }
    if panel.kind == "table":
        left_out = {column: True for column, name in panel.columns if not name}
        renamed = {column: name for column, name in panel.columns if name}
        order = {"excludeByName": left_out, "renameByName": renamed}
        drawn["transformations"] = [{"id": "organize", "options": order}]
    return drawn


def _is_share(panel: Panel) -> bool:
    return panel.unit == "percentunit" and panel.kind == "timeseries"


def _axis(panel: Panel) -> dict[str, Any]:
    # Without it an axis of nothing but noughts goes up to 100.
    soft = panel.reach or {"short": 1, "reqps": 0.1, "suffix: /s": 0.1}.get(panel.unit)
    return {} if soft is None or panel.kind != "timeseries" else {"axisSoftMax": soft}


def _lines_of_limits(panel: Panel) -> dict[str, Any]:
    shown = panel.limits is not None and panel.kind == "timeseries"
    return {"thresholdsStyle": {"mode": "dashed"}} if shown else {}


def _targets(queries: Iterable[Query], kind: Kind) -> Iterator[dict[str, Any]]:
    for place, query in enumerate(queries):
        target = {"refId": chr(ord("A") + place), "expr": query.expr, "legendFormat": query.legend or "__auto"}
        once = {} if kind == "timeseries" else {"instant": True}
        yield target | once | ({"format": "table"} if kind == "table" else {})


def text() -> str:
    """The file."""
    return json.dumps(dashboard(ROWS), indent=2) + "\n"


if __name__ == "__main__":
    FILE.write_text(text())
    print(f"{FILE} is written")
