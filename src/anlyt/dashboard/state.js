// What is looked at, and nothing else, stands in the address: a link shows the same to whoever may see it.

import { DAY_MS } from "./format.js";

const HOUR_MS = 3_600_000;
const HOURLY_MAX_MS = 8 * DAY_MS; // longer periods are drawn by the day

export const RANGES = [
  { id: "24h", label: "24 h", title: "Last 24 hours", hours: 24 },
  { id: "7d", label: "7 d", title: "Last 7 days", hours: 168 },
  { id: "30d", label: "30 d", title: "Last 30 days", days: 30 },
  { id: "90d", label: "90 d", title: "Last 90 days", days: 90 },
];
export const RANGE_DEFAULT = "7d";
const UUID = /^[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$/i;

/** The state an address stands for; what makes no sense is left out. */
export function readState(search) {
  const given = new URLSearchParams(search);
  const state = { range: RANGE_DEFAULT, from: null, to: null, operator: null, account: null, view: "overview", reason: null, tables: [] };
  if (RANGES.some(({ id }) => id === given.get("range"))) state.range = given.get("range");
  const [from, to] = [Date.parse(given.get("from") ?? ""), Date.parse(given.get("to") ?? "")];
  if (from < to) Object.assign(state, { range: "custom", from: hourOf(from), to: hourOf(to) });
  for (const name of ["operator", "account"]) if (UUID.test(given.get(name) ?? "")) state[name] = given.get(name).toLowerCase();
  if (given.get("view") === "status") state.view = "status";
  if (/^[a-z_]{1,40}$/.test(given.get("reason") ?? "")) state.reason = given.get("reason");
  state.tables = (given.get("table") ?? "").split(",").filter((name) => /^[a-z]+$/.test(name));
  return state;
}

/** The address of a state. */
export function writeState(state) {
  const given = new URLSearchParams();
  if (state.view === "status") {
    given.set("view", "status");
    if (state.reason) given.set("reason", state.reason);
  }
  if (state.operator) given.set("operator", state.operator);
  if (state.account) given.set("account", state.account);
  if (state.range === "custom") {
    given.set("from", iso(state.from));
    given.set("to", iso(state.to));
  } else if (state.range !== RANGE_DEFAULT) given.set("range", state.range);
  if (state.tables.length) given.set("table", state.tables.join(","));
  const text = given.toString().replaceAll("%3A", ":").replaceAll("%2C", ",");
  return text ? `/?${text}` : "/";
}

/** The period of a state at the service's time `now`: what is asked, from when to when it reaches, and how it is cut. */
export function periodOf(state, now) {
  const end = Math.ceil(now / HOUR_MS) * HOUR_MS;
  if (state.range === "custom") {
    return { from: iso(state.from), to: iso(state.to), start: state.from, end: state.to, bucket: bucketOf(state.to - state.from) };
  }
  const { hours, days } = RANGES.find(({ id }) => id === state.range);
  if (hours) return { from: `-${hours}h`, to: null, start: end - hours * HOUR_MS, end, bucket: "hour" };
  const start = Math.floor(now / DAY_MS) * DAY_MS - (days - 1) * DAY_MS;
  // Before 90 days ago only whole days are kept, so the period that this one is compared with must be whole days too.
  const last = days > 60 ? start + days * DAY_MS : end;
  return { from: iso(start).slice(0, 10), to: last === end ? null : iso(last).slice(0, 10), start, end: last, bucket: "day" };
}

/** The period before (-1) or after (1) the one that is shown, as a state; null when it has not begun yet. */
export function shift(state, now, direction) {
  const { start, end } = periodOf(state, now);
  const whole = state.range === "30d" || state.range === "90d";
  const length = whole ? Math.ceil((end - start) / DAY_MS) * DAY_MS : end - start;
  const from = start + direction * length;
  if (from >= now) return null;
  return { ...state, range: "custom", from, to: from + length };
}

const bucketOf = (length) => (length <= HOURLY_MAX_MS ? "hour" : "day");
const hourOf = (ms) => Math.floor(ms / HOUR_MS) * HOUR_MS;

/** "2026-11-23T10:00:00Z". */
export const iso = (ms) => new Date(ms).toISOString().replace(".000Z", "Z");
