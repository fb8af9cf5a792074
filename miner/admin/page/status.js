"use strict";
// Everything is written as text and never as markup: a reason or a name may come from a caller.
const REFRESH_MS = 5000;
const HEADERS = { "x-cascade-admin": "1" };
const $ = (id) => document.getElementById(id);
const style = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();

function element(tag, text, kind) {
  const made = document.createElement(tag);
  if (text instanceof Node) made.append(text);
  else if (text !== null && text !== undefined) made.textContent = String(text);
  if (kind) made.className = kind;
  return made;
}

function short(hotkey) {
  const made = element("span", `${hotkey.slice(0, 6)}…${hotkey.slice(-6)}`);
  made.title = hotkey;
  return made;
}

function facts(id, pairs) {
  const shown = pairs.filter(([, value]) => value !== null && value !== undefined && value !== "");
  $(id).replaceChildren(...shown.flatMap(([name, value]) => [element("dt", name), element("dd", value)]));
}

function table(id, heads, rows) {
  if (!rows.length) return $(id).replaceChildren();
  const isNumber = (column) => rows.every((row) => typeof row[column] === "number" || row[column] === null);
  const line = (tag, cells) => {
    const row = element("tr");
    row.append(...cells.map((cell, column) => element(tag, cell, isNumber(column) ? "number" : "")));
    return row;
  };
  $(id).replaceChildren(line("th", heads), ...rows.map((row) => line("td", row)));
}

const number = (value) => (value === null || value === undefined ? null : value.toLocaleString("en"));
const percent = (value) => (value === null || value === undefined ? null : `${(100 * value).toFixed(1)} %`);
const words = (name) => String(name).replaceAll("_", " ");

function since(seconds) {
  if (seconds === null || seconds === undefined) return null;
  if (seconds < 90) return `${Math.round(seconds)} s`;
  if (seconds < 5400) return `${Math.round(seconds / 60)} minutes`;
  return seconds < 172800 ? `${(seconds / 3600).toFixed(1)} hours` : `${(seconds / 86400).toFixed(1)} days`;
}
const ago = (time, now) => (time ? `${since((now - new Date(time)) / 1000)} ago` : null);

function attention(status, ready, now) {
  const found = ready.conditions.filter((one) => !one.holds).map((one) => ["bad", `Not ready: ${one.name}: ${one.detail}`]);
  const level = status.live_risk.level;
  if (level === "alarm" || level === "watch") found.push([level === "alarm" ? "bad" : "warn", status.live_risk.sentence || `Live risk: ${level}`]);
  for (const name of status.alerts.held || []) found.push(["warn", words(name)]);
  for (const name of status.chain.conditions || []) {
    if (!(status.alerts.held || []).includes(name)) found.push(["warn", `The subnet: ${words(name)}`]);
  }
  if (!status.stage2.servers.length) found.push(["warn", "There is no Stage-2: what Stage-1 defers is answered by Stage-1 alone."]);
  for (const one of status.stage2.servers) if (one.state === "open") found.push(["warn", `The Stage-2 server ${one.name} is left alone after failures.`]);
  for (const one of status.stage2_calibrations) if (one.stale) found.push(["warn", `The calibration of ${one.server || one.name} is stale: ${one.reason || "the server is another one"}`]);
  if (status.policy === "INFEASIBLE") found.push(["warn", "Nothing is certified: everything goes to Stage-2."]);
  if (status.nightly.failures_in_a_row) found.push([status.nightly.failures_in_a_row >= 3 ? "bad" : "warn", `${status.nightly.failures_in_a_row} nights have failed in a row.`]);
  if (status.nightly.outcome === "failed" && !status.nightly.failures_in_a_row) found.push(["warn", "The last night failed."]);
  const lost = Object.values(status.journal_failed).reduce((sum, each) => sum + each, 0);
  if (lost) found.push(["warn", `${number(lost)} records of the journal could not be written.`]);
  if (status.update.newer) found.push(["warn", `Release ${status.update.newest} is published; ${status.update.installed} runs.`]);
  if (status.model_age_days > 80) found.push(["warn", `The model is ${Math.round(status.model_age_days)} days old; it is paid in full for 90.`]);
  if (!found.length) found.push(["good", "Nothing."]);
  $("attention-list").replaceChildren(...found.map(([kind, text]) => element("li", text, kind)));
}

function show(status, ready) {
  const now = new Date();
  $("ready").textContent = status.stopping ? "stopping" : ready.ready ? "ready" : "not ready";
  $("ready").className = `badge ${ready.ready && !status.stopping ? "good" : "bad"}`;
  $("when").textContent = now.toLocaleTimeString();
  attention(status, ready, now);

  $("certificate").textContent = status.certificate || "No bundle is live.";
  facts("live", [
    ["Bundle", status.bundle], ["Certificate", status.policy], ["For", status.stream], ["Engine", status.engine],
    ["Vouched by", status.vouched_by], ["Age", since(status.model_age_days === null ? null : status.model_age_days * 86400)],
    ["Stands by", status.standby], ["Swaps", number(status.swaps)], ["Refused bundles", number(status.refusals)],
    ["Canary", status.canary ? `${status.canary.state || words(status.canary.verdict || "watching")}` : null],
    ["Last verdict", status.verdict ? `${status.verdict.verdict || status.verdict.promote}` : null],
  ]);
  $("rollback").disabled = !status.standby;
  table("history", ["bundle", "state", "reason"], status.history.slice().reverse().map((one) => [one.bundle, one.state, one.reason]));

  const totals = {};
  for (const byStatus of Object.values(status.replies)) for (const [code, count] of Object.entries(byStatus)) totals[code] = (totals[code] || 0) + count;
  facts("traffic", [
    ["Answers since the start", number(totals[200] || 0)],
    ["In flight", number(Object.values(status.axons).reduce((sum, each) => sum + each.in_flight, 0))],
    ["Connections", number(Object.values(status.axons).reduce((sum, each) => sum + each.connections, 0))],
    ["Images an engine call", status.batcher.batches ? (status.batcher.images / status.batcher.batches).toFixed(2) : null],
  ]);
  table("refusals", ["what", "reason", "times"], [
    ...Object.entries(totals).map(([code, count]) => ["reply", code, count]),
    ...Object.entries(status.refused).map(([reason, count]) => ["refused", words(reason), count]),
    ...Object.entries(status.degraded).map(([reason, count]) => ["degraded", words(reason), count]),
  ]);

  const budget = status.stage2.budget;
  facts("stage2", [
    ["Under way", number(status.stage2.in_flight)], ["Waiting", number(status.stage2.waiting)],
    ...Object.entries(status.stage2.outcomes).map(([outcome, count]) => [words(outcome), number(count)]),
    ["Budget", budget ? `${number(Math.round(budget.left ?? budget.available ?? 0))} of ${number(budget.limit)} ${words(budget.unit)} left` : null],
  ]);
  table("servers", ["server", "state", "under way"], status.stage2.servers.map((one) => [one.name, one.state, one.in_flight]));

  const risk = status.live_risk;
  $("risk-words").textContent = risk.sentence || "Not watched: see live_risk.enabled in the settings.";
  facts("risk", [
    ["Level", risk.level], ["Audits", risk.audits === undefined ? null : risk.audits ? `${number(risk.trials)}, with ${number(risk.losses)} misses` : "off"],
    ["Wait for a person", risk.for_people ? number(risk.for_people) : null], ["Taken off t0", risk.theta ? risk.theta.toFixed(3) : null], ["After an alarm", risk.reaction],
  ]);
  facts("risk-all", Object.entries(risk).filter(([, value]) => value !== null && typeof value !== "object").map(([name, value]) => [words(name), typeof value === "number" ? number(value) : String(value)]));

  const nightly = status.nightly;
  facts("nights", [
    ["Now", nightly.running ? "a night runs" : "none runs"], ["Last success", ago(nightly.last_success, now)],
    ["Next", nightly.next_at ? new Date(nightly.next_at).toLocaleString() : null],
    ["Tried again", nightly.again_at ? new Date(nightly.again_at).toLocaleString() : null],
    ...Object.entries(nightly.progress || {}).filter(([, value]) => typeof value !== "object").map(([name, value]) => [words(name), value]),
  ]);
  table("nights-list", ["began", "outcome", "verdict", "why"], (nightly.nights || []).slice().reverse().map((night) => [
    night.started_at ? new Date(night.started_at).toLocaleString() : "", night.outcome || "runs",
    typeof night.verdict === "object" && night.verdict ? night.verdict.verdict || night.verdict.decision : night.verdict, night.reason || (night.verdict && night.verdict.reason) || "",
  ]));

  const chain = status.chain;
  facts("chain", [
    ["Block", number(chain.block)], ["Neurons", number(chain.neurons)], ["Read", `${since(chain.age_s)} ago`], ["From", chain.endpoint],
    ["Failures", number(chain.failures_total)], ["Emission", (chain.conditions || []).includes("emission_burned") ? "burned: mining earns nothing" : null],
  ]);
  table("hotkeys", ["hotkey", "on the subnet", "port", "address"], Object.entries(status.axons).map(([hotkey, axon]) => [
    short(hotkey), chain.registered[hotkey] ? "yes" : "no", axon.port, (chain.addresses || {})[hotkey] || "",
  ]));
}

const charts = {};
function chart(id, data, lines, range) {
  const box = $(id);
  const size = { width: Math.max(200, box.clientWidth - 4), height: 125 };
  if (!data[0].length) { box.replaceChildren(element("p", "No minute is over yet.", "empty")); return; }
  if (charts[id]) { charts[id].setSize(size); charts[id].setData(data); return; }
  box.replaceChildren();
  const axis = { stroke: style("--soft"), grid: { stroke: style("--line"), width: 1 }, ticks: { stroke: style("--line") }, font: "11px system-ui" };
  charts[id] = new uPlot({
    ...size, cursor: { y: false }, legend: { live: true },
    scales: { y: { range: (plot, low, high) => [0, range || Math.max(1e-3, high * 1.1 || 1)] } },
    axes: [axis, { ...axis, size: 44, space: 22 }],
    series: [{ value: (plot, at) => (at ? new Date(1000 * at).toLocaleTimeString() : "") }, ...lines.map(([label, color]) => ({ label, stroke: style(color), width: 1.5, spanGaps: false, points: { show: data[0].length < 3 } }))],
  }, data, box);
}

function draw(history) {
  chart("chart-answers", [history.at, history.answers, history.refused], [["answers", "--blue"], ["refused", "--orange"]]);
  chart("chart-time", [history.at, history.p50_s, history.p99_s], [["median", "--blue"], ["99 %", "--orange"]]);
  chart("chart-shares", [history.at, history.exits, history.degraded], [["exits", "--blue"], ["degraded", "--orange"]], 1);
}

async function read(path) {
  const reply = await fetch(path);
  return reply.json();
}

async function look() {
  try {
    const [status, ready, history] = await Promise.all([read("status.json"), read("readyz"), read("history.json")]);
    show(status, ready);
    draw(history);
  } catch (error) {
    $("ready").textContent = "no answer";
    $("ready").className = "badge bad";
    $("when").textContent = String(error);
  }
}

async function act(path, question) {
  if (question && !window.confirm(question)) return;
  $("done").textContent = "…";
  const reply = await fetch(path, { method: "POST", headers: HEADERS });
  const told = await reply.json();
  $("done").textContent = reply.ok ? "done" : told.error || `status ${reply.status}`;
  await look();
}

$("reload").addEventListener("click", () => act("reload"));
$("rollback").addEventListener("click", () => act("rollback", "Make the bundle that stands by live, and refuse the present one?"));
window.matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => window.location.reload());
window.addEventListener("resize", () => Object.entries(charts).forEach(([id, drawn]) => drawn.setSize({ width: $(id).clientWidth - 4, height: 125 })));
look();
setInterval(() => { if (!document.hidden) look(); }, REFRESH_MS);
