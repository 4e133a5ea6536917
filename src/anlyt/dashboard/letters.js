// Dead letters: by reason, one by one, whole; retried or discarded after a question, in pieces until all is done.

import { address, call } from "./api.js";
import { h } from "./dom.js";
import { count, dateTime, stamp } from "./format.js";
import { announce, confirmed, tableOf } from "./panel.js";

const PAGE = 15;
const ROUNDS_MAX = 10_000; // of one retry; each lasts up to five seconds

/** Keeps the panel of dead letters: `refresh(kept, signal)` with the numbers by reason. */
export function letterDesk(target, session, state, tell) {
  const may = session.permissions.includes("admin");
  let rows = [];
  let next = null;
  let kept = {};
  let told = null;
  let working = false;
  let signal = null;

  const question = (cursor) => address("/v1/dead-letters", { reason: state.reason, limit: PAGE, cursor });
  const wanted = () => (state.reason ? { reason: state.reason } : { all: true });
  const inWords = () => (state.reason ? `all open letters with the reason ${state.reason}` : "all open letters");

  async function load() {
    const page = await call(question(null), { signal });
    // What was paged to stays: only letters that are newer, or gone, change the list.
    const gone = new Set(rows.map(keyOf));
    const fresh = page.data.filter((row) => !gone.has(keyOf(row)));
    if (rows.length <= PAGE || fresh.length === page.data.length) ({ data: rows, next } = page);
    else rows = [...fresh, ...rows];
    show();
  }

  async function more() {
    const page = await call(question(next), { signal });
    rows = rows.concat(page.data);
    next = page.next;
    show();
  }

  /** Do something to letters, piece by piece, and say what became of them. */
  async function work(verb, choice) {
    working = true;
    const sums = {};
    try {
      let cursor;
      for (let round = 0; round < ROUNDS_MAX; round += 1) {
        const { data, next: rest } = await call(`/v1/dead-letters/${verb}`, { method: "POST", body: cursor ? { ...choice, cursor } : choice });
        for (const [name, value] of Object.entries(data)) sums[name] = name === "stillOpen" ? value : (sums[name] ?? 0) + value;
        const left = verb === "retry" ? rest : data.stillOpen > 0 && data.discarded > 0;
        told = { kind: "even", text: `${outcome(verb, sums)}${left ? "; going on" : ""}` };
        show();
        if (!left) break;
        cursor = rest ?? undefined;
      }
    } catch (problem) {
      told = { kind: "worse", text: `${problem.title ?? "That did not work"}: ${problem.message}` };
    }
    working = false;
    announce(told.text);
    rows = [];
    const status = await call("/v1/status").catch(() => null);
    if (status) kept = status.deadLettersKept ?? {};
    await load().catch(() => show());
  }

  async function retry(choice, words) {
    if (await confirmed("Retry dead letters?", `${words} will be judged again by today's rules. What passes is counted, exactly once; what fails stays here with its new reason.`, "Retry")) await work("retry", choice);
  }

  async function discard(choice, words) {
    if (await confirmed("Discard dead letters?", `${words} will be marked as discarded and never counted. They are kept for the record.`, "Discard")) await work("discard", choice);
  }

  async function open({ sequence, batchIndex }) {
    const path = `/v1/dead-letters/${sequence}/${batchIndex}`;
    let answer;
    try {
      answer = await call(path);
    } catch (problem) {
      told = { kind: "worse", text: problem.message };
      return show();
    }
    const choice = { sequence, index: batchIndex };
    const words = "This letter";
    const dialog = h(
      "dialog",
      { class: "letter", "aria-label": `Dead letter ${sequence}/${batchIndex}`, onclose: () => dialog.remove(), onclick: (event) => event.target === dialog && dialog.close() },
      answer.data.map(letterOf),
      h("div", { class: "buttons" }, h("button", { type: "button", class: "plain", onclick: () => dialog.close() }, "Close"), answer.data.some(({ state: at }) => at === "open") && [h("button", { type: "button", class: "plain", onclick: () => { dialog.close(); retry(choice, words); } }, "Retry…"), h("button", { type: "button", class: "danger", onclick: () => { dialog.close(); discard(choice, words); } }, "Discard…")]),
    );
    document.body.append(dialog);
    dialog.showModal();
  }

  function show() {
    const total = Object.values(kept).reduce((sum, letters) => sum + letters, 0);
    const choose = (reason, label, letters) =>
      h("button", { type: "button", "aria-pressed": String(state.reason === reason), "data-key": `reason ${reason}`, onclick: () => tell.go({ ...state, reason }) }, label, " ", h("small", {}, count(letters)));
    const columns = [
      { name: "Recorded", key: "recordedAt", text: ({ recordedAt }) => recordedAt, cell: ({ recordedAt }) => h("span", { title: recordedAt }, stamp(recordedAt)) },
      { name: "Reason", key: "reason", head: true, text: ({ reason }) => reason, cell: ({ reason }) => h("code", {}, reason) },
      { name: "What is wrong", key: "detail", text: ({ detail }) => detail, cell: ({ detail }) => h("span", { class: "wrap" }, detail) },
      { name: "Place", key: "place", text: ({ sequence, batchIndex }) => `${sequence}/${batchIndex}`, cell: (row) => h("button", { type: "button", class: "link", "data-key": `letter ${keyOf(row)}`, onclick: () => open(row) }, `${row.sequence}/${row.batchIndex}`) },
      { name: "Tries", key: "attempts", numeric: true, text: ({ attempts }) => attempts, cell: ({ attempts }) => count(attempts) },
    ];
    const foot = next && h("p", { class: "foot" }, `${count(rows.length)} shown. `, h("button", { type: "button", class: "link", "data-key": "more letters", onclick: more }, "Show more"));
    target.show({
      paths: [question(null)],
      note: "kept whole, the newest first; nothing was dropped",
      picture: () => [
        h("div", { class: "desk" }, h("div", { class: "segmented chips", role: "group", "aria-label": "Reason" }, choose(null, "all", total), Object.entries(kept).map(([reason, letters]) => choose(reason, reason, letters))), h("div", { class: "buttons" }, h("button", { type: "button", class: "plain", disabled: working || !rows.length, "data-key": "retry all", onclick: () => retry(wanted(), upper(inWords())) }, "Retry these…"), h("button", { type: "button", class: "plain bad", disabled: working || !rows.length, "data-key": "discard all", onclick: () => discard(wanted(), upper(inWords())) }, "Discard these…"))),
        told && h("p", { class: `result ${told.kind}`, role: "status" }, told.text),
        rows.length ? tableOf({ columns, rows, foot }, "Dead letters") : h("div", { class: "state empty" }, h("h3", {}, "No open dead letters"), h("p", {}, "Everything that was published could be counted.")),
      ],
      table: { columns, rows, foot },
    });
  }

  return {
    async refresh(counts, abort) {
      kept = counts;
      signal = abort;
      if (may) return working ? undefined : load();
      return target.show({ paths: [], empty: { title: "This key may not open dead letters", text: "It needs the permission admin: anlyt keys create --permission metrics:read --permission admin" } });
    },
  };
}

const keyOf = ({ sequence, batchIndex, publishedAt }) => `${sequence}/${batchIndex}/${publishedAt}`;
const upper = (text) => text[0].toUpperCase() + text.slice(1);

function outcome(verb, sums) {
  if (verb === "discard") return `${count(sums.discarded)} discarded`;
  const parts = [["counted", sums.counted], ["known already", sums.duplicate], ["ignored", sums.ignored], ["failed again", sums.failed]];
  return parts.filter(([name, value]) => value > 0 || name === "counted").map(([name, value]) => `${count(value)} ${name}`).join(", ");
}

function letterOf(letter) {
  const facts = [["State", letter.state], ["Recorded", dateTime(letter.recordedAt)], ["Published", dateTime(letter.publishedAt)], ["Subject", letter.subject], ["Place", `${letter.stream} ${letter.sequence}/${letter.batchIndex}`], ["Tries", count(letter.attempts)], ...Object.entries(letter.headers).map(([name, value]) => [name, value])];
  return h(
    "section",
    {},
    h("h2", {}, h("code", {}, letter.reason)),
    h("p", {}, letter.detail),
    h("dl", { class: "facts" }, facts.map(([name, value]) => h("div", {}, h("dt", {}, name), h("dd", {}, value)))),
    h("pre", { tabindex: 0 }, letter.body === null ? `not text, in Base64:\n${letter.bodyBase64}` : pretty(letter.body)),
  );
}

/** JSON with indents where that changes nothing but white space; anything else as it came. */
function pretty(body) {
  try {
    const text = JSON.stringify(JSON.parse(body), null, 2);
    return /\d{16}/.test(body) ? body : text;
  } catch {
    return body;
  }
}
