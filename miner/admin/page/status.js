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
    row.append(...cells.map((cell, column) => element(tag, cell, isNumber(column) ? "number" : String(cell ?? "").length > 30 && !(cell instanceof Node) ? "long" : "")));
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
const clock = (time) => (time ? new Date(time).toLocaleString("en-GB", { day: "numeric", month: "short", hour: "2-digit", minute: "2-digit" }) : null);
const milliseconds = (value) => (value === null || value === undefined ? null : value < 10 ? `${Math.max(1, Math.round(1000 * value))} ms` : `${value.toFixed(1)} s`);
const many = (count, one, more) => `${number(count)} ${count === 1 ? one : more}`;
const STATES = { closed: "answers", open: "left alone after failures", half_open: "tried again" };
const ago = (time, now) => (time ? `${since((now - new Date(time)) / 1000)} ago` : null);

function attention(status, ready, now) {
  const found = ready.conditions.filter((one) => !one.holds).map((one) => ["bad", `Not ready: ${one.name}: ${one.detail}`]);
  const level = status.live_risk.level;
  if (level === "alarm" || level === "watch") found.push([level === "alarm" ? "bad" : "warn", status.live_risk.sentence || `Live risk: ${level}`]);
  for (const fault of status.gpu ? status.gpu.faults : []) found.push([fault.level === "alarm" ? "bad" : "warn", `${fault.text[0].toUpperCase()}${fault.text.slice(1)}: ${fault.todo}.`]);
  for (const name of status.alerts.held || []) if (!name.startsWith("gpu_fault")) found.push(["warn", heldText(name)]);
  for (const name of status.chain.conditions || []) {
    if (!(status.alerts.held || []).includes(name)) found.push(["warn", heldText(name)]);
  }
  if (!status.stage2.servers.length) found.push(["warn", "There is no Stage-2: what Stage-1 defers is answered by Stage-1 alone."]);
  for (const one of status.stage2.servers) if (one.state === "open") found.push(["warn", `The Stage-2 server ${one.name} is left alone after failures.`]);
  for (const one of status.stage2_calibrations) {
    if (one.state === "stale") found.push(["warn", `The calibration of ${one.server} is stale: ${one.changed || "the server"} is another.`]);
    else if (one.other_bundle) found.push(["warn", `What ${one.server} is worth was found with another bundle. Run cascade stage2 evaluate.`]);
  }
  if (status.policy === "INFEASIBLE") found.push(["warn", "Nothing is certified: everything goes to Stage-2."]);
  const failed = status.nightly.failures_in_a_row;
  if (failed > 1) found.push([failed >= 3 ? "bad" : "warn", `${failed} nights in a row have failed.`]);
  else if (failed || status.nightly.outcome === "failed") found.push(["warn", "The last night failed: the table of nights says why."]);
  const lost = Object.values(status.journal_failed).reduce((sum, each) => sum + each, 0);
  if (lost) found.push(["warn", `${number(lost)} records of the journal could not be written.`]);
  if (status.update.newer) found.push(["warn", `Release ${status.update.newest} is published; ${status.update.installed} runs.`]);
  if (status.model_age_days > 80) found.push(["warn", `The model is ${Math.round(status.model_age_days)} days old; it is paid in full for 90.`]);
  if (!found.length) found.push(["good", "Nothing."]);
  $("attention-list").replaceChildren(...found.map(([kind, text]) => element("li", text, kind)));
}

function show(status, ready, history) {
  const now = new Date();
  $("ready").textContent = status.stopping ? "stopping" : ready.ready ? "ready" : "not ready";
  $("ready").className = `badge ${ready.ready && !status.stopping ? "good" : "bad"}`;
  $("when").textContent = now.toLocaleTimeString("en-GB");
  attention(status, ready, now);

  const whole = status.certificate || "No bundle is live.";
  // The sentence without what stands in brackets; everything is in the details.
  const first = whole.split(/ \(|\. /)[0];
  $("certificate").textContent = first.endsWith(".") ? first : `${first}.`;
  $("certificate-text").textContent = whole;
  $("certificate-whole").hidden = whole === $("certificate").textContent;
  facts("live", [
    ["Bundle", status.bundle], ["Certificate", status.policy], ["Stream", status.stream], ["Why it is live", why(status)], ["Engine", status.engine],
    ["Vouched by", status.vouched_by], ["Age", since(status.model_age_days === null ? null : status.model_age_days * 86400)],
    ["Stands by", status.standby], ["Swaps", number(status.swaps)], ["Refused bundles", number(status.refusals)],
    ["Canary", status.canary ? `${status.canary.state || words(status.canary.verdict || "watching")}` : null],
    ["Last verdict", status.verdict && status.verdict.bundle !== status.bundle ? verdictText(status.verdict) : null],
  ]);
  $("rollback").disabled = !status.standby;
  table("history", ["bundle", "state", "reason"], status.history.slice().reverse().map((one) => [one.bundle, one.state, one.reason]));

  const recent = traffic(history);
  const totals = {};
  for (const byStatus of Object.values(status.replies)) for (const [code, count] of Object.entries(byStatus)) totals[code] = (totals[code] || 0) + count;
  facts("traffic", [
    ["Answers since the start", number(totals[200] || 0)],
    ...recent,
    ["In flight", number(Object.values(status.axons).reduce((sum, each) => sum + each.in_flight, 0))],
    ["Connections", number(Object.values(status.axons).reduce((sum, each) => sum + each.connections, 0))],
    ["Images an engine call", status.batcher.batches ? (status.batcher.images / status.batcher.batches).toFixed(2) : null],
  ]);
  table("refusals", ["what", "reason", "times"], [
    ...Object.entries(status.refused).map(([reason, count]) => ["refused", words(reason), count]),
    ...Object.entries(status.degraded).map(([reason, count]) => ["degraded", words(reason), count]),
    ...Object.entries(totals).map(([code, count]) => ["replied", `status ${code}`, count]),
  ]);

  const budget = status.stage2.budget;
  facts("stage2", [
    ["Under way", number(status.stage2.in_flight)], ["Waiting", number(status.stage2.waiting)],
    ["Hand-offs", Object.entries(status.stage2.outcomes).map(([outcome, count]) => `${number(count)} ${OUTCOMES[outcome] || words(outcome)}`).join(", ")],
    ["Budget", budget ? `${number(budget.limit)} ${words(budget.unit)} a period; ${number(Math.round(budget.spent))} spent since the start, ${number(Math.floor(budget.available))} can be spent now${budget.share < 1 ? `; enough for ${percent(budget.share)} of the hand-offs` : ""}` : null],
  ]);
  table("servers", ["server", "state", "under way"], status.stage2.servers.map((one) => [one.name, STATES[one.state] || one.state, one.in_flight]));

  const risk = status.live_risk;
  $("risk-words").textContent = risk.sentence || "Not watched: see live_risk.enabled in the settings.";
  facts("risk", [
    ["Level", risk.level], ["Audits", risk.audits === undefined ? null : risk.audits ? `${number(risk.trials)} counted, ${many(risk.losses, "miss", "misses")}` : "off: see live_risk.audits in the settings"],
    ["Wait for a person", risk.for_people ? number(risk.for_people) : null], ["Taken off t0", risk.theta ? risk.theta.toFixed(3) : null], ["After an alarm", risk.reaction],
  ]);
  facts("risk-all", Object.entries(risk).filter(([, value]) => value !== null && typeof value !== "object").map(([name, value]) => [words(name), typeof value === "number" ? number(value) : String(value)]));

  const nightly = status.nightly;
  facts("nights", [
    ["Now", nightly.running ? "a night runs" : "none runs"], ["Last success", ago(nightly.last_success, now)],
    ["Next", clock(nightly.next_at)], ["Tried again", clock(nightly.again_at)],
    ...Object.entries(nightly.progress || {}).filter(([, value]) => typeof value !== "object").map(([name, value]) => [words(name), value]),
  ]);
  table("nights-list", ["began", "came to", "why", "report"], (nightly.nights || []).slice().reverse().map((night) => [
    clock(night.started_at), marked(night), [night.reason, ...(night.reasons || []), ...(night.notes || [])].filter(Boolean).join("; "), link(night.report),
  ]));

  const chain = status.chain;
  facts("chain", [
    ["Block", number(chain.block)], ["Neurons", number(chain.neurons)], ["Read", `${since(chain.age_s)} ago`], ["From", chain.endpoint],
    ["Failures", number(chain.failures_total)], ["Emission", emission(chain)],
  ]);
  const published = Object.keys(chain.addresses || {}).length ? ["address"] : [];
  table("hotkeys", ["hotkey", "uid", "incentive", "port", ...published], Object.entries(status.axons).map(([hotkey, axon]) => [
    short(hotkey), (chain.uids || {})[hotkey] ?? (chain.registered[hotkey] ? "registered" : "not registered"), shareOf((chain.incentive || {})[hotkey]), axon.port, ...published.map(() => words(chain.addresses[hotkey] || "")),
  ]));

  gpus(status.gpu);
}

const HELD = {
  silent: "Nobody has got an answer for a while.", all_refused: "Every request is refused.", slow: "Answers take too long.", degraded: "Too many answers are given without Stage-1 or Stage-2.",
  deferral_rate: "The share of images that go to Stage-2 is not as usual.", chain_stale: "The chain has not been read for a while.", emission_burned: "Emission is burned: mining earns nothing at present.",
  no_incentive: "No miner has any incentive.", no_validator_admitted: "No validator may ask: see access in the settings.", night_overdue: "No night has succeeded for too long.", stage2_away: "No Stage-2 server answers.", budget_low: "The budget of Stage-2 pays for too few of the hand-offs.",
  disk: (what) => `Too little is free on the disk of ${what}, or it is gone.`, deregistered: (what) => `The hotkey ${what} is not on the subnet.`,
};
const OUTCOMES = { budget: "kept back by the budget", absent: "without a server" };

function heldText(name) {
  const [kind, ...what] = name.split(" ");
  const told = HELD[kind];
  if (typeof told === "function") return told(what.join(" "));
  return told || `Told from afar and not over: ${words(kind)} ${what.join(" ")}`.trim();
}

function verdictText(verdict) {
  const reasons = (verdict.reasons || []).join("; ");
  return `${verdict.verdict} for ${verdict.bundle}${reasons ? `: ${reasons}` : ""}`;
}

const MOVES = {
  publish: "a night published it, and the gate let it pass",
  activate: "it was activated by hand",
  rollback: "the bundle after it was rolled back",
  compile: "it is the bundle before it, compiled or certified anew for this machine",
  demo: "the demo activated it",
};

function why(status) {
  if (!status.bundle) return null;
  const { action, at } = status.move || {};
  const told = MOVES[action] || "it is the store's current bundle";
  return at ? `${told}, ${clock(at)}` : told;
}

function traffic(history) {
  const last = history.at.length - 1;
  if (last < 0) return [];
  const sum = (values) => values.reduce((total, value) => total + (value || 0), 0);
  const known = (values) => values.filter((value) => value !== null).sort((a, b) => a - b);
  const [middle, worst] = [known(history.p50_s), known(history.p99_s)];
  const day = last >= 1439 ? "Last 24 hours" : `Last ${since(60 * (last + 1))}`;
  return [
    ["Last minute", `${many(history.answers[last], "answer", "answers")}, ${number(history.refused[last])} refused${history.p50_s[last] === null ? "" : `; median ${milliseconds(history.p50_s[last])}, 99 % within ${milliseconds(history.p99_s[last])}`}`],
    [day, `${many(sum(history.answers), "answer", "answers")}, ${number(sum(history.refused))} refused${middle.length ? `; median of a usual minute ${milliseconds(middle[middle.length >> 1])}, 99 % of the worst within ${milliseconds(worst.at(-1))}` : ""}`],
  ];
}

function marked(night) {
  const text = night.verdict || (night.outcome === "running" ? "runs" : words(night.outcome));
  return element("span", text, night.outcome === "failed" || night.verdict === "REFUSE" ? "bad" : night.verdict === "PROMOTE" ? "good" : "");
}

function link(address) {
  if (!address) return "";
  const made = element("a", "report");
  made.href = address;
  return made;
}

const shareOf = (value) => (value === null || value === undefined ? "not known" : `${(100 * value).toFixed(2)} %`);

function emission(chain) {
  if ((chain.conditions || []).includes("no_incentive")) return "no miner has any: mining earns nothing at present";
  if (!chain.emission) return null;
  if (chain.emission.burned) return `uid ${chain.emission.uid} takes ${percent(chain.emission.share)}: it is burned, mining earns nothing at present`;
  return `spread over ${many(chain.emission.paid, "neuron", "neurons")}; the largest share is ${percent(chain.emission.share)}, of uid ${chain.emission.uid}`;
}

const gib = (bytes) => (bytes === null || bytes === undefined ? null : `${(bytes / 2 ** 30).toFixed(1)} GiB`);

function gpus(told) {
  $("gpu-section").hidden = !told || Boolean(told.problem);
  if (!told || told.problem) return;
  const one = (gpu) => [
    gpu.lost ? `no answer: ${gpu.lost}` : "", gpu.temperature_c === null ? "" : `${gpu.temperature_c} °C`, gpu.utilisation === null ? "" : `${percent(gpu.utilisation)} busy`,
    gpu.memory_total_bytes === null ? "" : `${gib(gpu.memory_used_bytes)} of ${gib(gpu.memory_total_bytes)}`, gpu.power_w === null ? "" : `${Math.round(gpu.power_w)} W`, gpu.slowed_by.length ? `clocks lowered: ${gpu.slowed_by.map(words).join(", ")}` : "",
  ].filter(Boolean).join(", ");
  facts("gpu", [
    ["Driver", told.driver], ["Health", told.faults.length ? many(told.faults.length, "fault, told above", "faults, told above") : "no fault"], ["No answer for", told.silent_s ? since(told.silent_s) : null],
    ...told.gpus.map((gpu) => [`${gpu.index}: ${gpu.name}`, one(gpu)]),
  ]);
}

const charts = {};
const minuteOf = (at) => new Date(1000 * at).toLocaleTimeString("en-GB", { hour: "2-digit", minute: "2-digit" });
function chart(id, data, lines, range) {
  const box = $(id);
  const size = { width: Math.max(200, box.clientWidth - 4), height: 125 };
  if (charts[id]) { charts[id].setSize(size); charts[id].setData(data); return; }
  box.replaceChildren();
  const axis = { stroke: style("--soft"), grid: { stroke: style("--line"), width: 1 }, ticks: { stroke: style("--line") }, font: "11px system-ui" };
  charts[id] = new uPlot({
    ...size, cursor: { y: false }, legend: { live: true },
    scales: { y: { range: (plot, low, high) => [0, range || Math.max(1e-3, high * 1.1 || 1)] } },
    axes: [{ ...axis, space: 60, incrs: [1, 5, 10, 15, 30, 60, 120, 180, 240, 360].map((minutes) => 60 * minutes), values: (plot, ticks) => ticks.map((at) => minuteOf(at)) }, { ...axis, size: 44, space: 22 }],
    series: [{ value: (plot, at) => (at ? new Date(1000 * at).toLocaleTimeString("en-GB") : "") }, ...lines.map(([label, color]) => ({ label, stroke: style(color), width: 1.5, spanGaps: false, points: { show: data[0].length < 3 } }))],
  }, data, box);
}

function draw(history) {
  $("no-minute").hidden = Boolean(history.at.length);
  $("charts").hidden = !history.at.length;
  if (!history.at.length) return;
  chart("chart-answers", [history.at, history.answers, history.refused], [["answers", "--blue"], ["refused", "--orange"]]);
  chart("chart-time", [history.at, history.p50_s, history.p99_s], [["median", "--blue"], ["99 %", "--orange"]]);
  chart("chart-shares", [history.at, history.exits, history.degraded], [["exits", "--blue"], ["degraded", "--orange"]], 1);
}

async function read(path) {
  const reply = await fetch(path);
  return reply.json();
}

let looks = 0;
async function look() {
  const mine = (looks += 1);
  try {
    const [status, ready, history] = await Promise.all([read("status.json"), read("readyz"), read("history.json")]);
    // A reply that was overtaken says what was before an action.
    if (mine !== looks) return;
    show(status, ready, history);
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
