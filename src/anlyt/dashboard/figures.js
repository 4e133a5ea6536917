// The six figures at the top, each with its change against the period before.

import { h, s } from "./dom.js";
import { change, changePoints, count, DASH, duration, micros, money, percent, shortCount, splitMoney } from "./format.js";

const ARROWS = { "-1": "M2 3.5h6L5 8z", 1: "M2 7h6L5 2.5z", 0: "M2 4.5h6v1H2z" };

/** The table behind the figures: one row a figure. */
export const figureColumns = [
  { name: "Figure", key: "figure", head: true, text: ({ name, tableName }) => tableName ?? name },
  { name: "This period", key: "value", numeric: true, text: ({ exact }) => exact ?? "", cell: ({ exact, shown }) => shown ?? exact ?? DASH },
  { name: "Period before", key: "previous", numeric: true, text: ({ before }) => before ?? "", cell: ({ beforeShown, before }) => beforeShown ?? before ?? DASH },
];

/** A summary row without the period before, where that was not counted, or is not kept, from its beginning. */
export function comparable(row, { countedSince }) {
  const before = 2 * Date.parse(row.start) - Date.parse(row.end);
  return countedSince && before >= Date.parse(countedSince) ? row : { ...row, previous: undefined };
}

/** The figures of a summary row; `ranks` is the row that percentiles come from, null until it is there. */
export function figuresOf(row, ranks, currency, scope) {
  const before = row.previous;
  const cost = change(micros(row.totalCost), before ? micros(before.totalCost) : null);
  const p95 = ranks?.latencyP95Ms ?? null;
  const p95Before = ranks?.previous?.latencyP95Ms ?? null;
  const figures = [
    { id: "submitted", name: "Submitted", big: shortCount(row.totalMessages), exact: row.totalMessages, before: before?.totalMessages, change: change(row.totalMessages, before?.totalMessages), good: 0 },
    { id: "rate", name: "Delivery rate", big: percent(row.deliveryRate), exact: row.deliveryRate, before: before?.deliveryRate, shown: percent(row.deliveryRate), beforeShown: percent(before?.deliveryRate), change: changePoints(row.deliveryRate, before?.deliveryRate), good: 1 },
    { id: "failed", name: "Failed", big: shortCount(row.failedMessages), exact: row.failedMessages, before: before?.failedMessages, change: change(row.failedMessages, before?.failedMessages), good: -1, small: row.errorRate === null ? null : `${percent(row.errorRate)} of all` },
    { id: "pending", name: "Pending", big: shortCount(row.pendingMessages), exact: row.pendingMessages, before: before?.pendingMessages, change: change(row.pendingMessages, before?.pendingMessages), good: 0 },
    { id: "latency", tableName: "Latency, average", name: scope === "ACCOUNT" ? "Latency, average" : "Latency, average / p95", big: duration(row.avgLatencyMs), second: scope === "ACCOUNT" ? null : ranks === null ? "…" : duration(p95), exact: row.avgLatencyMs, before: before?.avgLatencyMs, shown: duration(row.avgLatencyMs), beforeShown: duration(before?.avgLatencyMs), change: change(row.avgLatencyMs, before?.avgLatencyMs), good: -1 },
    { id: "cost", name: `Cost, ${currency}`, money: row.totalCost, exact: row.totalCost, before: before?.totalCost, shown: money(row.totalCost), beforeShown: before ? money(before.totalCost) : DASH, change: cost, good: 0 },
  ];
  if (scope !== "ACCOUNT") figures.splice(5, 0, { id: "p95", name: "Latency, p95", tableOnly: true, exact: p95, before: p95Before, shown: duration(p95), beforeShown: duration(p95Before) });
  for (const figure of figures) {
    figure.shown ??= count(figure.exact);
    figure.beforeShown ??= count(figure.before);
  }
  return figures;
}

/** The figures as a list. */
export const figureList = (figures) =>
  h("dl", { class: "figures" }, figures.filter(({ tableOnly }) => !tableOnly).map(figureOf));

function figureOf({ id, name, big, second, money: cost, change: changed, beforeShown, good, exact, small }) {
  const [whole, rest] = cost ? splitMoney(cost) : [big, null];
  return h(
    "div",
    { class: "figure", "data-figure": id },
    h("dt", {}, name),
    h("dd", { class: "value", title: exact === null ? "no data" : String(exact) }, h("span", { class: "first" }, whole, rest && h("small", {}, `.${rest}`)), second && " ", second && h("span", { class: "second" }, h("span", { class: "slash" }, "/ "), second)),
    h("dd", { class: "change" }, changed ? changeOf(changed, good) : h("span", { class: "none" }, small ?? "no comparison"), changed && h("span", { class: "was" }, `was ${beforeShown}`)),
  );
}

function changeOf({ text, direction }, good) {
  const kind = good === 0 || direction === 0 ? "even" : direction === good ? "better" : "worse";
  const word = { "-1": "down", 0: "unchanged", 1: "up" }[direction];
  return h(
    "span",
    { class: `delta ${kind}` },
    s("svg", { viewBox: "0 0 10 10", class: "arrow", "aria-hidden": "true" }, s("path", { d: ARROWS[direction] })),
    h("span", { class: "unseen" }, `${word} `),
    direction === 0 ? "same" : text,
  );
}
