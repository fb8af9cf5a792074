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
HERE = 'instance=~"$instance"'
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
        limits: values from which on it is yellow and red.
        least: lower end of the axis, None where values may be negative.
        optional: a healthy miner may have nothing of it. Grafana's "No data" would look like a fault.
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
    optional: bool = False


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
    return Query(" or ".join(parts), legend or f"{{{{{label}}}}}")


# Of what `stands` gives.
RANKS = (2.0, 3.0)
YES_NO = (("0", "no", "red"), ("1", "yes", "green"))
ROWS: dict[str, tuple[Panel, ...]] = {
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
            (Query(f"time() - cascade_bundle_created_timestamp_seconds{{{HERE}}}", "age"),),
            "s",
            "stat",
            "NATIX pays a model in full for 90 days.",
            4,
            (),
            (80 * 86400.0, 90 * 86400.0),
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
            (Query(f'sum(increase(cascade_requests_total{{{HERE}, status="200"}}[1d]))'),),
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
            "How it ended; cascade runs list has the verdicts.",
            4,
            limits=RANKS,
            optional=True,
        ),
    ),
    "Requests": (
        Panel("Replies by status", (rates("cascade_requests_total", "status"),), "reqps"),
        Panel(
            "Time of an answer",
            quantiles("cascade_request_duration_seconds"),
            "s",
            says="An answer is due after 7 s; the validator leaves after 9.",
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
            (Query(f"time() - cascade_nightly_last_success_timestamp_seconds{{{HERE}}}", "since"),),
            "s",
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
            "Failures of what is kept and told",
            (
                rates("cascade_journal_failures_total", "reason"),
                rates("cascade_scrape_failures_total", "part"),
            ),
            width=24,
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
        "templating": {"list": [_variable()]},
        "panels": list(_panels(rows)),
    }


def _variable() -> dict[str, Any]:
    return {
        "name": "instance",
        "label": "Miner",
        "type": "query",
        "datasource": {"type": "prometheus", "uid": "prometheus"},
        "query": {"query": "label_values(cascade_ready, instance)", "refId": "instance"},
        "refresh": 2,
        "includeAll": True,
        "multi": True,
        "allValue": ".*",
        "current": {"text": "All", "value": "$__all"},
    }


def _panels(rows: dict[str, tuple[Panel, ...]]) -> Iterator[dict[str, Any]]:
    number, top = 1, 0
    for title, panels in rows.items():
        yield {"id": number, "type": "row", "title": title, "gridPos": _place(0, top, COLUMNS, 1), "panels": []}
        number, top = number + 1, top + 1
        for line in _lines(panels):
            left, height = 0, max(_height(panel) for panel in line)
            for panel in line:
                yield _drawn(panel, number, _place(left, top, panel.width, height))
                number, left = number + 1, left + panel.width
            top += height


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
    return ROW_HEIGHT // 2 if panel.kind == "stat" else ROW_HEIGHT


def _place(left: int, top: int, width: int, height: int) -> dict[str, int]:
    return {"x": left, "y": top, "w": width, "h": height}


def _drawn(panel: Panel, number: int, place: dict[str, int]) -> dict[str, Any]:
    source = {"type": "prometheus", "uid": "prometheus"}
    steps: list[dict[str, Any]] = [{"color": "green", "value": None}]
    if panel.limits is not None:
        steps += [{"color": "yellow", "value": panel.limits[0]}, {"color": "red", "value": panel.limits[1]}]
    options = {value: {"text": text, "color": color} for value, text, color in panel.words}
    drawn: dict[str, Any] = {
        "id": number,
        "type": panel.kind,
        "title": panel.title,
        "description": panel.says,
        "datasource": source,
        "gridPos": place,
        "fieldConfig": {
            "defaults": {
                "unit": panel.unit,
                **({} if panel.least is None else {"min": panel.least}),
                **({"max": 1} if panel.unit == "percentunit" and panel.kind == "timeseries" else {}),
                **({"noValue": "none known"} if panel.optional else {}),
                "custom": _axis(panel),
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
        }
    return drawn


def _axis(panel: Panel) -> dict[str, Any]:
    # Without it an axis of nothing but noughts goes up to 100.
    soft = {"short": 1, "reqps": 0.1, "suffix: /s": 0.1}.get(panel.unit)
    return {} if soft is None or panel.kind != "timeseries" else {"axisSoftMax": soft}


def _targets(queries: Iterable[Query], kind: Kind) -> Iterator[dict[str, Any]]:
    for place, query in enumerate(queries):
        target = {"refId": chr(ord("A") + place), "expr": query.expr, "legendFormat": query.legend or "__auto"}
        yield target | ({"instant": True} if kind == "stat" else {})


def text() -> str:
    """The file."""
    return json.dumps(dashboard(ROWS), indent=2) + "\n"


if __name__ == "__main__":
    FILE.write_text(text())
    print(f"{FILE} is written")
