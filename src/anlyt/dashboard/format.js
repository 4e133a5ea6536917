// Values as people read them. Counts may be BigInt and money is a string with six decimals: neither passes through a
// floating-point number on its way to the screen. All times are UTC.

export const DASH = "–";
const HOUR_MS = 3_600_000;
export const DAY_MS = 24 * HOUR_MS;

const WHOLE = new Intl.NumberFormat("en", { maximumFractionDigits: 0 });
const SHORT = new Intl.NumberFormat("en", { notation: "compact", maximumFractionDigits: 2 });
const TENS_MAX = 10n ** 9n; // counts below are written in full everywhere

/** 1234567 -> "1,234,567". */
export const count = (value) => (value === null || value === undefined ? DASH : WHOLE.format(value));

/** A count for a large figure: "12.3B" beyond nine digits. */
export const shortCount = (value) => (BigInt(value) < TENS_MAX ? count(value) : SHORT.format(value));

/** A rate as a percentage with two decimals. Rounding never turns almost all into all, or little into nothing. */
export function percent(rate) {
  if (rate === null || rate === undefined) return DASH;
  const text = (rate * 100).toFixed(2);
  if (text === "100.00" && rate < 1) return "99.99 %";
  if (text === "0.00" && rate > 0) return "< 0.01 %";
  return `${text} %`;
}

/** Milliseconds: "840 ms", "3.42 s", "5 min 12 s". */
export function duration(ms) {
  if (ms === null || ms === undefined) return DASH;
  if (ms < 999.5) return `${Math.round(ms)} ms`;
  if (ms < 59_995) return `${(ms / 1000).toFixed(2)} s`;
  return span(ms / 1000);
}

/** Seconds as a length of time in its two largest units. */
export function span(seconds) {
  const whole = Math.round(seconds);
  const parts = [
    [Math.floor(whole / 86_400), "d"],
    [Math.floor(whole / 3600) % 24, "h"],
    [Math.floor(whole / 60) % 60, "min"],
    [whole % 60, "s"],
  ];
  const first = parts.findIndex(([amount]) => amount > 0);
  if (first < 0) return "0 s";
  return parts
    .slice(first, first + 2)
    .filter(([amount]) => amount > 0)
    .map(([amount, unit]) => `${amount} ${unit}`)
    .join(" ");
}

// --------------------------------------------------------------------------------------------------------------- money

/** "-1234.5" -> -1234500000n: millionths. */
export function micros(text) {
  const [, sign, whole, part = ""] = /^(-?)(\d+)(?:\.(\d{1,6}))?$/.exec(text) ?? fail(`not an amount: ${text}`);
  const value = BigInt(whole) * 1_000_000n + BigInt(part.padEnd(6, "0"));
  return sign ? -value : value;
}

/** 1234500000n -> "1234.500000". */
export function amount(value) {
  const size = value < 0n ? -value : value;
  return `${value < 0n ? "-" : ""}${size / 1_000_000n}.${String(size % 1_000_000n).padStart(6, "0")}`;
}

/** "1234.500000" -> "1,234.500000". */
export function money(text) {
  const [whole, part] = splitMoney(text);
  return `${whole}.${part}`;
}

/** "1234.500000" -> ["1,234", "500000"], for figures that show the two in different sizes. */
export function splitMoney(text) {
  const plain = amount(micros(text));
  const negative = plain.startsWith("-");
  const [whole, part] = plain.slice(negative ? 1 : 0).split(".");
  return [`${negative ? "−" : ""}${WHOLE.format(BigInt(whole))}`, part];
}

const fail = (message) => {
  throw new Error(message);
};

// -------------------------------------------------------------------------------------------------------------- change

/** How a figure changed: {text, direction} with direction -1, 0 or 1; null when there is nothing to compare with. */
export function change(now, before) {
  if (now === null || before === null || now === undefined || before === undefined) return null;
  const ratio = quotient(now, before);
  if (ratio === null) return null;
  const text = Math.abs(ratio * 100) >= 999.5 ? `${WHOLE.format(Math.round(ratio + 1))}×` : `${(Math.abs(ratio) * 100).toFixed(1)} %`;
  return { text, direction: text === "0.0 %" ? 0 : Math.sign(ratio) };
}

/** How a rate changed, in percentage points. */
export function changePoints(now, before) {
  if (now === null || before === null || now === undefined || before === undefined) return null;
  const points = (now - before) * 100;
  const text = `${Math.abs(points).toFixed(2)} pp`;
  return { text, direction: text === "0.00 pp" ? 0 : Math.sign(points) };
}

function quotient(now, before) {
  if (typeof now === "bigint" || typeof before === "bigint") {
    const [large, small] = [BigInt(now), BigInt(before)];
    return small === 0n ? null : Number(((large - small) * 1_000_000n) / small) / 1_000_000;
  }
  return before === 0 ? null : (now - before) / Math.abs(before);
}

// ---------------------------------------------------------------------------------------------------------------- time

const part = (options) => new Intl.DateTimeFormat("en-GB", { timeZone: "UTC", ...options });
const CLOCK = part({ hour: "2-digit", minute: "2-digit" });
const CLOCK_S = part({ hour: "2-digit", minute: "2-digit", second: "2-digit" });
const DATE = part({ day: "numeric", month: "short" });
const DATE_YEAR = part({ day: "numeric", month: "short", year: "numeric" });
const WEEKDAY = part({ weekday: "short", day: "numeric", month: "short" });

export const clock = (at) => CLOCK.format(new Date(at));
export const date = (at) => DATE.format(new Date(at));
export const dateYear = (at) => DATE_YEAR.format(new Date(at));
export const weekday = (at) => WEEKDAY.format(new Date(at)).replace(",", "");
export const dateTime = (at) => (at ? `${dateYear(at)}, ${CLOCK_S.format(new Date(at))} UTC` : DASH);

/** A moment of the last months in a table: "23 Nov, 01:39:02". */
export const stamp = (at) => (at ? `${date(at)}, ${CLOCK_S.format(new Date(at))}` : DASH);

/** The span of a bucket: "Tue 17 Nov, 10:00–11:00" or "Tue 17 Nov". */
export function bucket(start, end) {
  const length = new Date(end) - new Date(start);
  if (length >= DAY_MS) return weekday(start);
  return `${weekday(start)}, ${clock(start)}–${clock(end)}`;
}

/** A period in words: "16 Nov 01:00 – 23 Nov 01:00", "1 – 30 Nov 2026" for whole days. */
export function period(start, end) {
  const [from, to] = [new Date(start), new Date(end)];
  const whole = from % DAY_MS === 0 && to % DAY_MS === 0;
  if (!whole) return `${date(from)} ${clock(from)} – ${date(to)} ${clock(to)}`;
  const last = new Date(to - DAY_MS);
  if (+last === +from) return dateYear(from);
  return `${from.getUTCFullYear() === last.getUTCFullYear() ? date(from) : dateYear(from)} – ${dateYear(last)}`;
}

/** An id in a table: its first part; the whole stands in a title. */
export const shortId = (id) => (id.length > 13 ? `${id.slice(0, 8)}…` : id);
