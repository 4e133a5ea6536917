// The service's own state, for platform staff: how far counting is, jobs, partitions, and what could not be counted.

import { call } from "./api.js";
import { h } from "./dom.js";
import { count, dateTime, DASH, shortCount, span, stamp } from "./format.js";
import { letterDesk } from "./letters.js";
import { panel } from "./panel.js";

const RUNWAY_LOW_S = 14 * 86_400;
const OK = new Set(["ok", "done", "succeeded", "success"]);

/** The status page. Gives {place, refresh(), stop()} like the overview. */
export function staff(session, state, tell) {
  const panels = {
    state: panel({ id: "state", title: "Counting", how: "counting", wide: true, className: "bare" }),
    letters: panel({ id: "letters", title: "Dead letters", how: "letters", wide: true }),
    jobs: panel({ id: "jobs", title: "Jobs" }),
    partitions: panel({ id: "partitions", title: "Partitions ahead" }),
    slots: panel({ id: "slots", title: "Slots of the stream", wide: true }),
    backfills: panel({ id: "backfills", title: "Backfills", wide: true }),
  };
  const desk = letterDesk(panels.letters, session, state, tell);
  const place = h("div", { class: "panels" }, Object.values(panels));
  const mine = new AbortController();
  const refresh = async () => {
    try {
      const status = await call("/v1/status", { signal: mine.signal });
      tell.onmeta(status);
      draw(panels, status);
      await desk.refresh(status.deadLettersKept ?? {}, mine.signal);
    } catch (problem) {
      if (mine.signal.aborted) return;
      if (problem.status === undefined) throw problem;
      for (const each of Object.values(panels)) each.fail(problem, refresh);
      tell.onproblem(problem);
    }
  };
  return { place, refresh, stop: () => mine.abort() };
}

function draw(panels, status) {
  const paths = ["/v1/status"];
  const kept = Object.values(status.deadLettersKept ?? {}).reduce((sum, letters) => sum + BigInt(letters), 0n);
  const facts = [
    { id: "counted", name: "Counted events", value: status.counted },
    { id: "duplicates", name: "Duplicates ignored", value: status.duplicates },
    { id: "open", name: "Dead letters kept", value: kept },
    { id: "lost", name: "Lost by the stream", value: status.lostMessages, bad: Number(status.lostMessages) > 0 },
    { id: "late", name: "Late for the peak", value: status.lateSecondCounts },
    { id: "lag", name: "Behind the stream", text: status.lagSeconds === null ? DASH : status.lagSeconds < 1 ? "under 1 s" : span(status.lagSeconds), value: status.lagSeconds },
  ];
  panels.state.show({
    paths,
    note: `Stream ${status.stream}, as of ${dateTime(status.asOf)}`,
    picture: () => h("dl", { class: "figures" }, facts.map(({ id, name, value, text, bad }) => h("div", { class: "figure", "data-figure": id }, h("dt", {}, name), h("dd", { class: `value ${bad ? "worse" : ""}`, title: String(value) }, text ?? shortCount(value))))),
    table: { columns: [column("Figure", ({ name }) => name, { head: true }), column("Value", ({ value }) => value ?? "", { numeric: true })], rows: facts },
  });
  panels.jobs.show({ paths, note: "the last run of each", ...listed(status.jobs, [
    column("Job", ({ job }) => job, { head: true }),
    column("Started", ({ startedAt }) => startedAt, { cell: ({ startedAt }) => stamp(startedAt) }),
    column("Took", ({ startedAt, finishedAt }) => (finishedAt ? (Date.parse(finishedAt) - Date.parse(startedAt)) / 1000 : ""), { numeric: true, cell: ({ startedAt, finishedAt }) => took(startedAt, finishedAt) }),
    column("Outcome", ({ outcome }) => outcome ?? "", { cell: ({ outcome, finishedAt }) => mark(outcome === null ? "even" : OK.has(outcome) ? "better" : "worse", outcome ?? (finishedAt ? "ended" : "running")) }),
  ], "No job has run yet", "Jobs run in anlyt jobs loop, which anlyt up starts by itself.") });
  panels.partitions.show({ paths, note: "made before they are needed", ...listed(status.partitions, [
    column("Table", ({ table }) => table, { head: true }),
    column("Until", ({ coveredUntil }) => coveredUntil, { cell: ({ coveredUntil }) => coveredUntil.slice(0, 10) }),
    column("Ahead", ({ runwaySeconds }) => runwaySeconds, { numeric: true, cell: ({ runwaySeconds }) => mark(runwaySeconds < RUNWAY_LOW_S ? "worse" : "even", span(Math.max(0, runwaySeconds)).split(" ").slice(0, 2).join(" ")) }),
  ], "There are no partitions", "anlyt migrate makes them.") });
  panels.slots.show({ paths, note: "how far each part has been counted", ...listed(joined(status.slots), [
    column("Slots", ({ first, last }) => (first === last ? first : `${first}–${last}`), { head: true }),
    column("Sequence", ({ lastSequence }) => lastSequence, { numeric: true, cell: ({ lastSequence }) => count(lastSequence) }),
    column("Complete through", ({ completeThrough }) => completeThrough ?? "", { cell: ({ completeThrough }) => stamp(completeThrough) }),
    column("Lost", ({ lostMessages }) => lostMessages, { numeric: true, cell: ({ lostMessages }) => mark(Number(lostMessages) > 0 ? "worse" : "even", count(lostMessages)) }),
  ], "Nothing has been read yet", "A worker takes the slots within a second of its start.") });
  panels.backfills.show({ paths, note: "named loads, which may change final numbers", ...listed(status.backfills, [
    column("Name", ({ name }) => name, { head: true }),
    column("Counted", ({ counted }) => counted, { numeric: true, cell: ({ counted }) => count(counted) }),
    column("Duplicates", ({ duplicates }) => duplicates, { numeric: true, cell: ({ duplicates }) => count(duplicates) }),
    column("Dead letters", ({ deadLetters }) => deadLetters, { numeric: true, cell: ({ deadLetters }) => count(deadLetters) }),
    column("Hours", ({ firstHour, lastHour }) => `${firstHour ?? ""}/${lastHour ?? ""}`, { cell: ({ firstHour, lastHour }) => (firstHour ? `${firstHour.slice(0, 10)} – ${lastHour.slice(0, 10)}` : DASH) }),
  ], "No backfill has been loaded", "A load has the header Anlyt-Backfill; anlyt events publish --backfill sets it.") });
}

const column = (name, text, more = {}) => ({ name, text, ...more });

const mark = (kind, text) => h("span", { class: kind }, text);

const took = (start, end) => (end ? `${((Date.parse(end) - Date.parse(start)) / 1000).toFixed(1)} s` : DASH);

/** Neighbouring slots that are equally far, as one row. */
function joined(slots = []) {
  const groups = [];
  for (const slot of slots) {
    const group = groups.at(-1);
    const same = group && ["lastSequence", "completeThrough", "lostMessages"].every((name) => group[name] === slot[name]);
    if (same) group.last = slot.slot;
    else groups.push({ ...slot, first: slot.slot, last: slot.slot });
  }
  return groups;
}

/** A table, or words where there would be an empty one. */
const listed = (rows = [], columns, title, text) => ({ empty: rows.length ? null : { title, text }, table: { columns, rows } });

