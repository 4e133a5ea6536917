// The numbers: figures, charts and lists of a state, asked together, shown one by one as they come, renewed in place.

import "./chart.js";
import { sparkline, thinned } from "./chart.js";
import { h } from "./dom.js";
import { amount, bucket, count, DASH, date, DAY_MS, duration, micros, money, percent, period as periodText, shortId, weekday } from "./format.js";
import { comparable, figureColumns, figureList, figuresOf } from "./figures.js";
import { panel, tableOf } from "./panel.js";
import { ALL_MAX, questionsOf, SHOWN_MAX } from "./questions.js";

const IDLE_SHOWN = 5; // accounts without traffic that are named
const WORST_TIMES = 2; // an hour is worth a word when so many times as many messages failed in it as usual,
const WORST_MORE = 3; // and at least so many more
const HOURS_SHOWN = 48; // rows of a long list until more are asked for
const EMPTY = { title: "Nothing was submitted in this period", text: "Rates and latencies have no value then, so there is nothing to draw. A longer period may have some." };

/**
 * The panels of a state. `tell` has {names, now(), go(state), onmeta(meta), onproblem(problem), onmode(id, tabled)}.
 * Gives {place, refresh(), stop()}.
 */
export function overview(session, state, tell) {
  const panels = {};
  const limits = { operators: SHOWN_MAX, accounts: SHOWN_MAX };
  const shown = { rows: HOURS_SHOWN };
  const place = h("div", { class: "panels" });
  const { questions } = questionsOf(session, state, tell, limits);
  const add = (id, title, more = {}) => {
    panels[id] = panel({ id, title, how: id, tabled: state.tables.includes(id), onmode: (tabled) => tell.onmode(id, tabled), ...more });
    place.append(panels[id]);
  };
  add("numbers", "Key figures", { wide: true, className: "bare" });
  add("volume", "Messages", { wide: true });
  add("latency", "Latency");
  add("peak", "Peak rate");
  if (questions.operators) add("operators", "Operators", { wide: true });
  if (questions.accounts) add("accounts", "Accounts", { wide: true });
  if (questions.hours) add("hours", "Hours", { wide: true });
  if (questions.usage) add("usage", "Days", { wide: true });

  let running = null;
  const refresh = async ({ gently = false } = {}) => {
    if (gently && running) return; // what is on its way is new enough
    running?.abort();
    const mine = new AbortController();
    running = mine;
    const { subject, period, questions: asked } = questionsOf(session, state, tell, limits);
    const context = { session, state, tell, subject, period, limits, shown, refresh, panels };
    const jobs = Object.entries(asked).map(async ([name, question]) => {
      const targets = name === "series" ? ["volume", "latency", "peak"] : [name];
      try {
        // Nothing waits for percentiles, segments or small lines: at first it is drawn without.
        const early = (first) => targets.every((target) => panels[target].waiting) && !mine.signal.aborted && DRAW[name](context, question, first);
        const answer = await question.ask(mine.signal, early);
        if (mine.signal.aborted) return;
        DRAW[name](context, question, ...answer);
        tell.onmeta(answer[0].meta);
      } catch (problem) {
        if (mine.signal.aborted) return;
        if (problem.status === undefined) throw problem;
        for (const target of targets) panels[target].fail(problem, () => refresh());
        tell.onproblem(problem);
      }
    });
    await Promise.all(jobs).finally(() => {
      if (running === mine) running = null;
    });
  };
  return { place, refresh, stop: () => running?.abort() };
}

const DRAW = { numbers: drawNumbers, series: drawSeries, operators: drawOperators, accounts: drawAccounts, hours: drawHours, usage: drawUsage };

// -------------------------------------------------------------------------------------------------- figures and charts

function drawNumbers({ panels, period, subject }, { paths }, totals, ranks) {
  const { meta } = totals;
  const row = comparable(totals.data[0], meta);
  const partial = paths.length > 1 && !ranks;
  const figures = figuresOf(row, partial ? null : comparable((ranks ?? totals).data[0], meta), meta.currency, subject.scope);
  const before = [2 * Date.parse(row.start) - Date.parse(row.end), Date.parse(row.start)];
  const compared = row.previous ? `compared with ${periodText(...before)}` : meta.countedSince ? `counted since ${date(meta.countedSince)}: no whole period before` : "nothing was counted before";
  panels.numbers.show({
    paths,
    partial,
    note: `${periodText(period.start, period.end)} UTC, ${compared}`,
    picture: () => figureList(figures),
    table: { columns: figureColumns, rows: figures },
  });
}

function drawSeries(context, { paths }, series, ranks) {
  const { panels, period, subject, tell } = context;
  const rows = series.data;
  const places = ranks ? ranks.data : rows;
  const partial = paths.length > 1 && !ranks;
  const by = `by ${period.bucket}, UTC`;
  const empty = rows.every(({ totalMessages }) => Number(totalMessages) === 0) ? EMPTY : null;
  const chart = (panelId, spec) => (body) => {
    const known = body.querySelector("anlyt-chart");
    const made = known ?? document.createElement("anlyt-chart");
    const onpick = period.bucket === "day" ? ({ start, end }) => tell.go({ ...context.state, range: "custom", from: Date.parse(start), to: Date.parse(end) }) : null;
    made.spec = { spans: rows, now: tell.now(), height: 200, onpick, ...spec };
    return known ? null : made;
  };
  const time = [
    { name: period.bucket === "day" ? "Day" : "Hour", key: "start", head: true, text: ({ start }) => start, cell: ({ start, end }) => bucket(start, end) },
  ];
  const number = (name, key, cell = (row) => count(row[key])) => ({ name, key, numeric: true, text: (row) => row[key], cell });
  panels.volume.show({
    paths: paths.slice(0, 1),
    note: by,
    empty,
    picture: chart("volume", {
      label: "Messages by status",
      kind: "columns",
      height: 240,
      format: count,
      tick: tickCount,
      series: [
        { name: "delivered", key: "delivered", shape: "solid", values: rows.map(({ deliveredMessages }) => deliveredMessages) },
        { name: "failed", key: "failed", shape: "dashed", values: rows.map(({ failedMessages }) => failedMessages) },
        { name: "pending", key: "pending", shape: "dotted", values: rows.map(({ pendingMessages }) => pendingMessages) },
      ],
    }),
    table: {
      columns: [...time, number("Submitted", "totalMessages"), number("Delivered", "deliveredMessages"), number("Failed", "failedMessages"), number("Pending", "pendingMessages"), number("Delivery rate", "deliveryRate", (row) => percent(row.deliveryRate)), number("Cost", "totalCost", (row) => money(row.totalCost))],
      rows,
    },
  });
  const joined = rows.map((row, at) => ({ ...row, p95: places[at]?.latencyP95Ms ?? null }));
  const average = { name: "average", key: "latency", shape: "line", area: true, values: rows.map(({ avgLatencyMs }) => avgLatencyMs) };
  const rank = { name: "95th percentile", key: "latency", shape: "line dashed-line", values: joined.map(({ p95 }) => p95) };
  panels.latency.show({
    paths,
    partial,
    note: by,
    empty: empty ?? (rows.every(({ avgLatencyMs }) => avgLatencyMs === null) ? { title: "No latency in this period", text: "No message of this time has a delivery receipt yet." } : null),
    picture: chart("latency", { label: "Latency", kind: "lines", time: true, format: duration, tick: tickDuration, series: subject.scope === "ACCOUNT" ? [average] : [average, rank] }),
    table: {
      columns: [...time, number("Average", "avgLatencyMs", (row) => duration(row.avgLatencyMs)), ...(subject.scope === "ACCOUNT" ? [] : [number("95th percentile", "p95", (row) => duration(row.p95))]), number("Samples", "latencySampleCount")],
      rows: joined,
    },
  });
  panels.peak.show({
    paths: paths.slice(0, 1),
    note: `messages in the fullest second, ${by}`,
    empty,
    picture: chart("peak", { label: "Peak rate", kind: "columns", format: (value) => `${count(value)} /s`, tick: tickCount, series: [{ name: "peak per second", key: "peak", shape: "solid", values: rows.map(({ peakTps }) => peakTps) }] }),
    table: { columns: [...time, number("Peak per second", "peakTps")], rows },
  });
}

const tickCount = (value) => (value >= 10_000 ? `${round(value / 1000, 1)}k` : count(round(value, 1)));
const tickDuration = (value) => (value === 0 ? "0" : value < 1000 ? `${round(value, 0)} ms` : value < 60_000 ? `${round(value / 1000, 1)} s` : `${round(value / 60_000, 1)} min`);
const round = (value, places) => Number(value.toFixed(places));

// --------------------------------------------------------------------------------------------------------------- lists

function drawOperators(context, { paths, hourly }, answer, rows) {
  const { tell, panels, period, limits } = context;
  const lines = failureLines(answer.data, rows ?? [], period, hourly);
  const columns = [
    { name: "Operator", key: "scopeId", head: true, text: ({ scopeId }) => scopeId, cell: (row) => opener(context, "operator", row.scopeId) },
    { name: "Delivery rate", key: "deliveryRate", numeric: true, text: ({ deliveryRate }) => deliveryRate, cell: (row) => [h("b", {}, percent(row.deliveryRate)), points(row)] },
    { name: "Failure rate", key: "failureRate", text: ({ errorRate }) => errorRate, cell: (row) => [sparkline(lines.of(row.scopeId), "failed", `Failure rate over the period, now ${percent(row.errorRate)}, at most ${percent(lines.most(row.scopeId))}`, { top: lines.top }), h("span", { class: "beside" }, percent(row.errorRate))] },
    { name: "Submitted", key: "totalMessages", numeric: true, text: ({ totalMessages }) => totalMessages, cell: (row) => count(row.totalMessages) },
    { name: "Failed", key: "failedMessages", numeric: true, text: ({ failedMessages }) => failedMessages, cell: (row) => count(row.failedMessages) },
    { name: "Pending", key: "pendingMessages", numeric: true, text: ({ pendingMessages }) => pendingMessages, cell: (row) => count(row.pendingMessages) },
    { name: "Average", key: "avgLatencyMs", numeric: true, text: ({ avgLatencyMs }) => avgLatencyMs, cell: (row) => duration(row.avgLatencyMs) },
    { name: "p95", key: "latencyP95Ms", numeric: true, text: ({ latencyP95Ms }) => latencyP95Ms, cell: (row) => duration(row.latencyP95Ms) },
    { name: "Peak /s", key: "peakTps", numeric: true, text: ({ peakTps }) => peakTps, cell: (row) => count(row.peakTps) },
    { name: "Cost", key: "totalCost", numeric: true, text: ({ totalCost }) => totalCost, cell: (row) => money(row.totalCost) },
  ];
  const rich = columns.filter(({ key }) => key !== "totalCost");
  const plain = columns.filter(({ key }) => key !== "failureRate").toSpliced(2, 0, { ...columns[2], name: "Failure rate", numeric: true, cell: ({ errorRate }) => percent(errorRate) });
  list(panels.operators, { context, kind: "operators", answer, paths, note: "worst delivery rate first", rich, plain, partial: !rows, above: lines.worst && worst(context, lines.worst), empty: { title: "No operator had traffic in this period", text: "Messages count for an operator when their events name one." }, limits });
}

/** The hour or day in which most more messages failed than usual for their operator, as a way to it. */
function worst({ state, tell, period }, { id, start, end, failed, total, rate }) {
  const day = Math.floor(start / DAY_MS) * DAY_MS;
  const target = { ...state, operator: id, account: null, range: "custom", from: day, to: day + DAY_MS };
  const when = bucket(start, end);
  const link = h("a", { href: tell.link(target), "data-key": "worst", onclick: (event) => { if (event.metaKey || event.ctrlKey || event.shiftKey) return; event.preventDefault(); tell.go(target); } }, `${tell.names.get(id) ?? shortId(id)}, ${when}`);
  return h("p", { class: "callout" }, `Worst ${period.bucket === "hour" ? "hour" : "day"}: `, link, `: ${count(failed)} of ${count(total)} failed, ${percent(Number(failed) / Number(total))}; usual for it are ${percent(rate)}.`);
}

/** Failure rates of each operator by hour or day. */
function failureLines(groups, rows, period, hourly) {
  const step = hourly ? 3_600_000 : 86_400_000;
  const first = Math.floor(period.start / step) * step;
  const length = Math.max(1, Math.ceil((period.end - first) / step));
  const sums = new Map(groups.map(({ scopeId }) => [scopeId, [new Array(length).fill(0), new Array(length).fill(0)]]));
  for (const row of rows) {
    const at = (Date.parse(row.hourBucket ?? row.dayBucket) - first) / step;
    if (!sums.has(row.scopeId) || !(at >= 0 && at < length)) continue;
    const [failed, total] = sums.get(row.scopeId);
    failed[at] = row.failedMessages;
    total[at] = row.totalMessages;
  }
  let worst = null;
  let excess = WORST_MORE;
  for (const { scopeId: id, errorRate: rate } of groups) {
    const [failed, total] = sums.get(id);
    for (let at = 0; at < length; at += 1) {
      const usual = Number(total[at]) * rate;
      if (Number(failed[at]) - usual < excess || Number(failed[at]) < WORST_TIMES * usual) continue;
      excess = Number(failed[at]) - usual;
      worst = { id, start: first + at * step, end: first + (at + 1) * step, failed: failed[at], total: total[at], rate };
    }
  }
  const lines = new Map([...sums].map(([id, [failed, total]]) => [id, thinned(failed, total)]));
  const most = (id) => Math.max(0, ...lines.get(id).filter((value) => value !== null));
  return { worst, of: (id) => lines.get(id), most, top: Math.max(0.1, ...groups.map(({ scopeId }) => most(scopeId))) };
}

function drawAccounts(context, { paths, days }, answer, usage) {
  const { panels, limits } = context;
  const segments = new Map();
  for (const { accountId, totalSegments } of usage?.data ?? []) segments.set(accountId, (segments.get(accountId) ?? 0n) + BigInt(totalSegments));
  const most = answer.data.reduce((top, { totalCost }) => (micros(totalCost) > top ? micros(totalCost) : top), 0n);
  const columns = [
    { name: "Account", key: "scopeId", head: true, text: ({ scopeId }) => scopeId, cell: (row) => opener(context, "account", row.scopeId) },
    { name: "Cost", key: "totalCost", numeric: true, text: ({ totalCost }) => totalCost, cell: (row) => h("b", {}, money(row.totalCost)) },
    { name: "Share", key: "share", cell: (row) => bar(micros(row.totalCost), most), text: () => "" },
    { name: "Segments", key: "totalSegments", numeric: true, text: ({ scopeId }) => (usage?.whole ? (segments.get(scopeId) ?? 0n) : ""), cell: ({ scopeId }) => (usage?.whole ? count(segments.get(scopeId) ?? 0n) : usage ? DASH : "…") },
    { name: "Submitted", key: "totalMessages", numeric: true, text: ({ totalMessages }) => totalMessages, cell: (row) => count(row.totalMessages) },
    { name: "Failed", key: "failedMessages", numeric: true, text: ({ failedMessages }) => failedMessages, cell: (row) => count(row.failedMessages) },
    { name: "Delivery rate", key: "deliveryRate", numeric: true, text: ({ deliveryRate }) => deliveryRate, cell: (row) => [percent(row.deliveryRate), points(row)] },
  ];
  const plain = columns.filter(({ key }) => key !== "share");
  list(panels.accounts, { context, kind: "accounts", answer, paths, note: `highest cost first, ${answer.meta.currency}, whole days ${periodText(days.from, days.to)}`, rich: columns, plain, partial: !usage, empty: { title: "No account had traffic on these days", text: "Accounts appear with their first message." }, limits });
}

/** A list of operators or accounts: with pictures, or as a plain table with every column. */
function list(target, { context, kind, answer, paths, note, rich, plain, partial, above, empty, limits }) {
  const { meta } = answer;
  const data = answer.data.slice(0, limits[kind]).map((row) => comparable(row, meta));
  const more = meta.groups > data.length && limits[kind] < ALL_MAX;
  const silent = kind === "accounts" && answer.data.length === meta.groups ? idle(context, answer.data) : [];
  const foot = [
    meta.groups > data.length && h("p", { class: "foot" }, `${count(data.length)} of ${count(meta.groups)} shown. `, more && h("button", { type: "button", class: "link", "data-key": `more ${kind}`, onclick: () => { limits[kind] = ALL_MAX; context.refresh(); } }, `Show ${meta.groups > ALL_MAX ? `the first ${ALL_MAX}` : "all"}`)),
    silent.length > 0 && h("p", { class: "foot" }, `${count(silent.length)} without traffic: `, silent.slice(0, IDLE_SHOWN).map((id, at) => [at > 0 && ", ", opener(context, "account", id)]), silent.length > IDLE_SHOWN && ", …"),
  ];
  const title = kind === "operators" ? "Operators" : "Accounts";
  target.show({
    paths,
    note,
    partial,
    empty: data.length ? null : empty,
    picture: () => tableOf({ columns: rich, rows: data, above, foot }, title),
    table: { columns: plain, rows: data, foot },
  });
}

/** Accounts that have a name but sent nothing. */
function idle({ tell }, data) {
  const active = new Set(data.map(({ scopeId }) => scopeId));
  return tell.accounts.filter((id) => !active.has(id));
}

function points({ deliveryRate, previous }) {
  if (!previous || deliveryRate === null || previous.deliveryRate === null) return h("span", { class: "points" }, "");
  const moved = (deliveryRate - previous.deliveryRate) * 100;
  const text = Math.abs(moved).toFixed(2);
  if (text === "0.00") return h("span", { class: "points" }, "±0.00");
  return h("span", { class: `points ${moved > 0 ? "better" : "worse"}`, title: "percentage points against the period before" }, `${moved > 0 ? "+" : "−"}${text}`);
}

function bar(value, most) {
  const share = most > 0n && value > 0n ? Number((value * 1000n) / most) / 10 : 0;
  const track = h("span", { class: "track", "aria-hidden": "true" }, h("i"));
  track.firstChild.style.width = `${share}%`;
  return track;
}

/** The name of an operator or account, which opens its own view. */
function opener({ state, tell }, kind, id) {
  const name = tell.names.get(id);
  const target = { ...state, operator: null, account: null, [kind]: id };
  return h(
    "a",
    { href: tell.link(target), class: name ? "name" : "name raw", title: id, "data-key": `${kind} ${id}`, onclick: (event) => { if (event.metaKey || event.ctrlKey || event.shiftKey) return; event.preventDefault(); tell.go(target); } },
    name ?? shortId(id),
  );
}

// ------------------------------------------------------------------------------------------------------- hours and days

function drawHours(context, { paths }, answer) {
  const rows = answer.data.toReversed();
  const columns = [
    { name: "Hour", key: "hourBucket", head: true, text: ({ hourBucket }) => hourBucket, cell: ({ hourBucket }) => bucket(hourBucket, Date.parse(hourBucket) + 3_600_000) },
    ...counts(["Submitted", "totalMessages"], ["Delivered", "deliveredMessages"], ["Failed", "failedMessages"], ["Errors", "errorCount"]),
    { name: "Delivery rate", key: "deliveryRate", numeric: true, text: ({ deliveryRate }) => deliveryRate, cell: ({ deliveryRate, errorRate }) => h("span", { class: errorRate > 0.25 ? "worse" : null }, percent(deliveryRate)) },
    { name: "Average", key: "avgLatencyMs", numeric: true, text: ({ avgLatencyMs }) => avgLatencyMs, cell: ({ avgLatencyMs }) => duration(avgLatencyMs) },
    { name: "p95", key: "latencyP95Ms", numeric: true, text: ({ latencyP95Ms }) => latencyP95Ms, cell: ({ latencyP95Ms, latencySampleCount }) => duration(Number(latencySampleCount) ? latencyP95Ms : null) },
    ...counts(["Peak /s", "peakTps"]),
    { name: "Final", key: "final", text: ({ final }) => String(final), cell: ({ final }) => (final ? "final" : "open") },
  ];
  long(context, "hours", { rows, columns, paths, note: "with traffic, the latest first" });
}

function drawUsage(context, { paths }, answer) {
  const rows = answer.data.toReversed();
  const columns = [
    { name: "Day", key: "dayBucket", head: true, text: ({ dayBucket }) => dayBucket, cell: ({ dayBucket }) => weekday(dayBucket) },
    { name: `Cost, ${answer.meta.currency}`, key: "totalCost", numeric: true, text: ({ totalCost }) => totalCost, cell: ({ totalCost }) => h("b", {}, money(totalCost)) },
    ...counts(["Segments", "totalSegments"], ["Sent", "messagesSent"], ["Delivered", "messagesDelivered"], ["Failed", "messagesFailed"]),
    { name: "Delivery rate", key: "deliveryRate", numeric: true, text: ({ deliveryRate }) => deliveryRate, cell: ({ deliveryRate }) => percent(deliveryRate) },
    { name: "Final", key: "final", text: ({ final }) => String(final), cell: ({ final }) => (final ? "final" : "open") },
  ];
  const total = rows.reduce((sum, { totalCost }) => sum + micros(totalCost), 0n);
  long(context, "usage", { rows, columns, paths, note: `with traffic, the latest first; together ${money(amount(total))} ${answer.meta.currency}` });
}

const counts = (...pairs) => pairs.map(([name, key]) => ({ name, key, numeric: true, text: (row) => row[key], cell: (row) => count(row[key]) }));

/** A long list, the first rows of it until more are asked for; the file has all. */
function long(context, id, { rows, columns, paths, note }) {
  const { panels, shown } = context;
  const left = rows.length - shown.rows;
  const more = h("p", { class: "foot" }, `${count(Math.min(rows.length, shown.rows))} of ${count(rows.length)} shown. `, h("button", { type: "button", class: "link", "data-key": `more ${id}`, onclick: () => { shown.rows = Infinity; long(context, id, { rows, columns, paths, note }); } }, "Show all"));
  panels[id].show({
    paths,
    note,
    empty: rows.length ? null : EMPTY,
    table: { columns, rows },
    part: left > 0 ? { columns, rows: rows.slice(0, shown.rows), foot: more } : null,
  });
}
