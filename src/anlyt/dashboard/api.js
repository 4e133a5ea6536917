// The public API and nothing else. The browser sends the session's cookie by itself; this file never sees a key but the
// one that is typed in. Whole numbers beyond 2^53 become BigInt, so that nothing is rounded on its way to the screen.

const TIMEOUT_MS = 15_000;
const SUMS = "/v1/summary";
const SUMS_MAX = 2; // asked at once: as many as the service answers one key; the rest wait here, in the page's own order
const TRIES_MAX = 3; // of a question that was refused because others are being answered
const RETRY_S_MAX = 5;
const PAGES_MAX = 10; // of one list
const LONG = /\d{16}/;
const TOKENS = /"(?:[^"\\]|\\.)*"|-?\d[\d.eE+-]*/g; // strings, so that nothing inside of them is taken for a number
const MARK = "\u0000int:";

/** An answer that is not what was asked for: `status` 0 when there was no answer at all. */
export class Problem extends Error {
  constructor(status, title, detail, code = "", requestId = null) {
    super(detail);
    Object.assign(this, { status, title, code, requestId });
  }
}

/** Parse JSON without losing a digit: integers that a double cannot hold become BigInt. */
export function parse(text) {
  if (!LONG.test(text)) return JSON.parse(text);
  const marked = text.replace(TOKENS, (found) => (/^-?\d{16,}$/.test(found) ? JSON.stringify(MARK + found) : found));
  return JSON.parse(marked, (_, value) => {
    if (typeof value !== "string" || !value.startsWith(MARK)) return value;
    const whole = BigInt(value.slice(MARK.length));
    return Number.isSafeInteger(Number(whole)) ? Number(whole) : whole;
  });
}

/** How far the service's clock is ahead of this computer's, in milliseconds: the page's hours are the service's. */
let ahead = 0;
export const serviceNow = () => Date.now() + ahead;

/**
 * The answer of a route, decoded. Raises Problem; an AbortError of the caller's own signal passes. Sums take turns;
 * those that are asked `later` come after all others.
 */
export async function call(path, { method = "GET", body, signal, later = false } = {}) {
  const given = path.startsWith(SUMS) ? await turn(later) : () => {};
  try {
    for (let tries = 1; ; tries += 1) {
      signal?.throwIfAborted();
      try {
        return await ask(path, { method, body, signal });
      } catch (problem) {
        if (problem.status !== 429 || tries === TRIES_MAX) throw problem;
        await new Promise((done) => setTimeout(done, 1000 * Math.min(problem.retryAfterS, RETRY_S_MAX)));
      }
    }
  } finally {
    given();
  }
}

const soon = [];
const last = [];
let running = 0;

/** Waits for a turn; gives what ends it. All that is asked in one go stands in line before the first is let in. */
function turn(later) {
  queueMicrotask(admit);
  return new Promise((go) => (later ? last : soon).push(go));
}

function admit() {
  while (running < SUMS_MAX && soon.length + last.length > 0) {
    running += 1;
    (soon.shift() ?? last.shift())(() => {
      running -= 1;
      admit();
    });
  }
}

async function ask(path, { method, body, signal }) {
  const limit = AbortSignal.timeout(TIMEOUT_MS);
  const options = { method, signal: signal ? AbortSignal.any([signal, limit]) : limit, headers: {} };
  if (body !== undefined) {
    options.body = JSON.stringify(body);
    options.headers["content-type"] = "application/json";
  }
  let response;
  let text;
  try {
    response = await fetch(path, options);
    text = await response.text();
  } catch (error) {
    if (signal?.aborted) throw error;
    throw new Problem(0, "The service cannot be reached", limit.aborted ? "It did not answer in time." : "Nothing answers at its address.");
  }
  ahead = (Date.parse(response.headers.get("date") ?? "") || Date.now()) - Date.now();
  const json = /json/.test(response.headers.get("content-type") ?? "");
  const answer = json && text ? parse(text) : null;
  if (response.ok) return answer;
  const code = String(answer?.type ?? "").split(":").pop();
  const title = answer?.title ?? `The answer was ${response.status}`;
  const problem = new Problem(response.status, title, answer?.detail ?? "", code, response.headers.get("x-request-id"));
  throw Object.assign(problem, { retryAfterS: Number(response.headers.get("retry-after")) || 1 });
}

/** All pages of a list, at most `rowsMax` rows; `whole` tells whether that was all. */
export async function callAll(path, { signal, rowsMax = PAGES_MAX * 1000 } = {}) {
  const rows = [];
  let cursor = null;
  let meta;
  do {
    const page = await call(cursor ? `${path}&cursor=${encodeURIComponent(cursor)}` : path, { signal });
    rows.push(...page.data);
    ({ meta, next: cursor } = page);
  } while (cursor && rows.length < rowsMax);
  return { data: rows, meta, whole: cursor === null };
}

/** A route with its parameters; a list repeats its name. */
export function address(route, parameters) {
  const pairs = Object.entries(parameters)
    .filter(([, value]) => value !== null && value !== undefined)
    .flatMap(([name, value]) => [value].flat().map((one) => `${name}=${encodeURIComponent(one)}`));
  return pairs.length ? `${route}?${pairs.join("&")}` : route;
}

/** The same question for a terminal. The key is a variable there, never part of the text. */
export const curl = (paths) =>
  paths
    .map((path) => `curl -H "Authorization: Bearer $ANLYT_KEY" '${location.origin}${path.replaceAll("'", "%27")}'`)
    .join("\n");
