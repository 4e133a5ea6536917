// What the page asks for a state: routes of the public API with their parameters. One place, so that the curl commands
// are the very questions whose answers are shown.

import { address, call, callAll } from "./api.js";
import { DAY_MS } from "./format.js";
import { iso, periodOf } from "./state.js";

export const SHOWN_MAX = 10; // operators or accounts until all are asked for
export const ALL_MAX = 100;
const SPARK_HOURS_MAX = 8 * 24;
const USAGE_ROWS_MAX = 10_000;

/** Whose numbers: {scope, ids} with ids null for all that the key may see. */
export function subjectOf(session, state) {
  if (session.scope === "PLATFORM") {
    if (state.operator) return { scope: "OPERATOR", ids: [state.operator], drilled: true };
    if (state.account) return { scope: "ACCOUNT", ids: [state.account], drilled: true };
    return { scope: "PLATFORM", ids: null, drilled: false };
  }
  const chosen = session.scope === "OPERATOR" ? state.operator : state.account;
  if (chosen && session.scopeIds.length > 1) return { scope: session.scope, ids: [chosen], drilled: true };
  return { scope: session.scope, ids: session.scopeIds.length === 1 ? session.scopeIds : null, drilled: false };
}

/**
 * The questions of a state by panel. Each is {paths, ask(signal, onfirst)}: `onfirst` hears what can be drawn before all
 * of it is there. Percentiles of the platform come last: they cost the most and are a part of what is shown.
 */
export function questionsOf(session, state, tell, { operators = SHOWN_MAX, accounts = SHOWN_MAX } = {}) {
  const subject = subjectOf(session, state);
  const period = periodOf(state, tell.now());
  const time = { from: period.from, to: period.to };
  const mine = { scope: subject.scope, scopeId: subject.ids, ...time };
  const summary = (parameters) => address("/v1/summary", parameters);
  const totals = summary({ ...mine, compare: "previous" });
  const series = summary({ ...mine, groupBy: period.bucket });
  // The percentiles of the platform are those of all operators' samples.
  const others = subject.scope === "PLATFORM" ? { scope: "OPERATOR", ...time } : null;
  const ranks = others && summary({ ...others, compare: "previous" });
  const rankSeries = others && summary({ ...others, groupBy: period.bucket });
  const questions = {
    numbers: both(totals, ranks),
    series: both(series, rankSeries),
  };
  const many = subject.ids === null || subject.ids.length > 1;
  if (subject.scope === "PLATFORM" || (subject.scope === "OPERATOR" && many)) questions.operators = operatorsOf(time, period, tell, operators);
  if (subject.scope === "PLATFORM" || (subject.scope === "ACCOUNT" && many)) questions.accounts = accountsOf(period, tell, accounts);
  if (subject.scope === "OPERATOR" && !many) questions.hours = hoursOf(subject.ids[0], time);
  if (subject.scope === "ACCOUNT" && !many) questions.usage = usageOf(subject.ids[0], wholeDays(period));
  return { subject, period, questions };
}

function both(first, second) {
  const paths = second ? [first, second] : [first];
  const ask = (signal, onfirst = () => {}) => {
    const asked = paths.map((path) => call(path, { signal, later: path === second }));
    if (second) asked[0].then(onfirst, () => {}); // a failure is told by the whole
    return Promise.all(asked);
  };
  return { paths, ask };
}

/** Operators, the lowest delivery rate first, and the rows behind their small lines. */
function operatorsOf(time, period, tell, limit) {
  const first = address("/v1/summary", { scope: "OPERATOR", ...time, groupBy: "scopeId", sort: "deliveryRate", order: "asc", limit, compare: "previous" });
  const hourly = period.end - period.start <= SPARK_HOURS_MAX * 3_600_000;
  const ask = async (signal, onfirst = () => {}) => {
    const [answer] = await Promise.all([call(first, { signal }), tell.named]);
    onfirst(answer);
    const ids = answer.data.map(({ scopeId }) => scopeId);
    const route = hourly ? "/v1/metrics/hourly" : "/v1/metrics/daily";
    const rows = ids.length ? await callAll(address(route, { scope: "OPERATOR", scopeId: ids, ...time, limit: 1000 }), { signal }) : { data: [] };
    return [answer, rows.data];
  };
  return { paths: [first], hourly, ask };
}

/**
 * Accounts by cost over whole days, with the segments of their days. Where all that have a name fit into one answer they
 * are asked for, so that those without traffic can be named; `limit` of them are shown.
 */
function accountsOf(period, tell, limit) {
  const days = wholeDays(period);
  const asked = () => (tell.accounts.length <= ALL_MAX ? Math.max(limit, tell.accounts.length) : limit);
  const first = () => address("/v1/summary", { scope: "ACCOUNT", ...days, groupBy: "scopeId", sort: "totalCost", limit: asked(), compare: "previous" });
  const usage = (ids) => address("/v1/accounts/usage", { accountId: ids, ...days, limit: 1000 });
  const ask = async (signal, onfirst = () => {}) => {
    await tell.named;
    const answer = await call(first(), { signal });
    onfirst(answer);
    const ids = answer.data.slice(0, limit).map(({ scopeId }) => scopeId);
    const rows = ids.length ? await callAll(usage(ids), { signal, rowsMax: USAGE_ROWS_MAX }) : { data: [], whole: true };
    return [answer, rows];
  };
  return { get paths() { return [first(), usage([])]; }, days, ask };
}

function hoursOf(operatorId, time) {
  const path = address("/v1/operators/performance", { operatorId, ...time, limit: 1000 });
  return { paths: [path], ask: async (signal) => [await callAll(path, { signal })] };
}

function usageOf(accountId, days) {
  const path = address("/v1/accounts/usage", { accountId, ...days, limit: 1000 });
  return { paths: [path], ask: async (signal) => [await callAll(path, { signal })] };
}

/** The days of UTC that a period touches. */
export function wholeDays({ start, end }) {
  const [first, last] = [Math.floor(start / DAY_MS), Math.ceil(end / DAY_MS)];
  return { from: iso(first * DAY_MS).slice(0, 10), to: iso(last * DAY_MS).slice(0, 10) };
}
