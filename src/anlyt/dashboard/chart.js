// Charts of spans of time: stacked columns, lines, sparklines. Plain SVG, drawn anew when the width or the data changes.
// What tells series apart is never colour alone: columns have patterns, lines have dashes. A chart is one stop of the tab
// key; arrow keys move a cursor whose values are read out, and all charts of a page move theirs together.

import { h, renew, s } from "./dom.js";
import { bucket, clock, date, DAY_MS } from "./format.js";

const PAD = { top: 12, right: 4, bottom: 22, left: 14 };
const DIGIT_PX = 7; // of a label
const LABEL_PX = 64; // least distance of labels on the time axis
const GAP_MAX_PX = 4; // between columns
const TICKS = 4;
const NICE = [1, 2, 2.5, 5, 10];
const NICE_MS = [1, 2, 5, 10, 20, 50, 100, 200, 500, 1e3, 2e3, 5e3, 1e4, 2e4, 3e4, 6e4, 12e4, 3e5, 6e5, 12e5, 18e5, 36e5, 72e5];
const PEAK_TIMES = 3; // what is so many times above nearly all values is cut off and named, or it would flatten the rest
const MOST = 0.95;
const DAYS_ONLY = 72; // spans, from which on hours are not labelled
const SPARK_POINTS_MAX = 84;

/**
 * <anlyt-chart>: set `.spec` to {label, kind: "columns" | "lines", height, series: [{name, key, shape, values}],
 * spans: [{start, end}], format, tick, now, onpick, time}. Values may be null (a gap); `time`: they are milliseconds.
 */
class Chart extends HTMLElement {
  #spec = null;
  #cursor = -1;
  #width = 0;
  #observer = new ResizeObserver(([entry]) => {
    const width = Math.round(entry.contentRect.width);
    if (width !== this.#width) {
      this.#width = width;
      this.#draw();
    }
  });
  #follow = (event) => {
    if (event.detail.source === this || event.detail.count !== this.#spec?.spans.length) return;
    this.#cursor = event.detail.index;
    this.#mark(false);
  };

  set spec(spec) {
    if (this.#spec?.spans.length !== spec.spans.length) this.#cursor = -1;
    this.#spec = spec;
    this.#draw();
  }

  connectedCallback() {
    this.#observer.observe(this);
    document.addEventListener("anlyt-cursor", this.#follow);
  }

  disconnectedCallback() {
    this.#observer.disconnect();
    document.removeEventListener("anlyt-cursor", this.#follow);
  }

  #draw() {
    if (!this.#spec || !this.#width) return;
    const { spans, height, label, kind, series } = this.#spec;
    const plot = { left: 0, top: PAD.top, width: 0, height: height - PAD.top - PAD.bottom };
    this.scale = scaleOf(this.#spec, plot);
    plot.left = PAD.left + Math.ceil(Math.max(...this.scale.ticks.map((value) => this.#spec.tick(value).length)) * DIGIT_PX);
    plot.width = this.#width - plot.left - PAD.right;
    const svg = s(
      "svg",
      { width: this.#width, height, viewBox: `0 0 ${this.#width} ${height}`, "aria-hidden": "true" },
      patterns(),
      grid(this.#spec, plot, this.scale),
      timeAxis(this.#spec, plot, height),
      s("g", { class: "mark" }),
      kind === "columns" ? columns(this.#spec, plot, this.scale) : lines(this.#spec, plot, this.scale),
      s("g", { class: "dots" }),
    );
    this.plot = plot;
    const frame = h(
      "div",
      {
        class: "plot",
        "data-key": `chart ${label}`,
        tabindex: 0,
        role: "slider",
        "aria-label": `${label}. Arrow keys move through time`,
        "aria-orientation": "horizontal",
        "aria-valuemin": 0,
        "aria-valuemax": Math.max(0, spans.length - 1),
        "aria-valuenow": Math.max(0, this.#cursor),
        "aria-valuetext": this.#cursor < 0 ? "no time chosen" : this.#say(this.#cursor),
        onkeydown: (event) => this.#key(event),
        onpointermove: (event) => this.#point(event),
        onpointerdown: (event) => this.#point(event),
        onpointerleave: () => this.#move(-1),
        onblur: () => this.#move(-1),
        onclick: (event) => event.pointerType !== "touch" && this.#pick(),
      },
      svg,
      h("div", { class: "tip", hidden: true }),
    );
    renew(this, legend(series), frame);
    this.#mark(false);
  }

  #key(event) {
    const last = this.#spec.spans.length - 1;
    const steps = { ArrowLeft: -1, ArrowRight: 1, ArrowDown: -1, ArrowUp: 1, PageUp: -24, PageDown: 24 };
    let index = null;
    if (event.key in steps) index = this.#cursor < 0 ? last : clamp(this.#cursor + steps[event.key], 0, last);
    else if (event.key === "Home") index = 0;
    else if (event.key === "End") index = last;
    else if (event.key === "Escape") index = -1;
    else if (event.key === "Enter") this.#pick();
    if (index === null) return;
    event.preventDefault();
    this.#move(index);
  }

  #point(event) {
    const box = this.querySelector(".plot").getBoundingClientRect();
    const { spans } = this.#spec;
    const place = (event.clientX - box.left - this.plot.left) / this.plot.width;
    this.#move(place < 0 || place > 1 ? -1 : clamp(Math.floor(place * spans.length), 0, spans.length - 1));
  }

  #pick() {
    const chosen = this.#spec.spans[this.#cursor];
    if (chosen && this.#spec.onpick) this.#spec.onpick(chosen);
  }

  #move(index) {
    if (index === this.#cursor) return;
    this.#cursor = index;
    this.#mark(true);
    const detail = { source: this, index, count: this.#spec.spans.length };
    document.dispatchEvent(new CustomEvent("anlyt-cursor", { detail }));
  }

  #say(index) {
    const { spans, series, format } = this.#spec;
    const values = series.map(({ name, values }) => `${name} ${format(values[index])}`);
    return `${bucket(spans[index].start, spans[index].end)}: ${values.join(", ")}`;
  }

  /** Show where the cursor is; the chart it is moved in shows the values too. */
  #mark(mine) {
    const frame = this.querySelector(".plot");
    if (!frame || !this.#spec) return;
    const { spans, series, kind, height } = this.#spec;
    const tip = frame.querySelector(".tip");
    const [mark, dots] = [frame.querySelector(".mark"), frame.querySelector(".dots")];
    const index = this.#cursor;
    mark.replaceChildren();
    dots.replaceChildren();
    tip.hidden = !mine || index < 0;
    if (index < 0 || index >= spans.length) return;
    const step = this.plot.width / spans.length;
    const x = this.plot.left + step * index;
    mark.append(s("rect", { x: kind === "columns" ? x : x + step / 2 - 0.5, y: PAD.top, width: kind === "columns" ? Math.max(1, step) : 1, height: this.plot.height }));
    if (kind === "lines") {
      for (const { key, values } of series) {
        if (values[index] !== null) dots.append(s("circle", { cx: x + step / 2, cy: this.scale(values[index]), r: 3.5, class: `dot ${key}` }));
      }
    }
    frame.setAttribute("aria-valuenow", index);
    frame.setAttribute("aria-valuetext", this.#say(index));
    if (mine) this.#tip(tip, index, x + step / 2, height);
  }

  #tip(tip, index, x, height) {
    const { spans, series, format, now, onpick } = this.#spec;
    const { start, end } = spans[index];
    const rows = series.map(({ name, key, shape, values }) =>
      h("div", { class: "tip-row" }, swatch(key, shape), h("span", {}, name), h("b", {}, format(values[index]))),
    );
    const open = Date.parse(start) <= now && now < Date.parse(end);
    tip.replaceChildren(
      h("p", {}, bucket(start, end), open && h("em", {}, " so far")),
      ...rows,
      ...(onpick ? [h("p", { class: "hint" }, "click to open this day")] : []),
    );
    const width = tip.offsetWidth;
    tip.style.left = `${clamp(x + 14 + width > this.#width ? x - 14 - width : x + 14, 0, Math.max(0, this.#width - width))}px`;
    tip.style.top = `${Math.max(0, height / 2 - tip.offsetHeight / 2 - 14)}px`;
  }
}
customElements.define("anlyt-chart", Chart);

// -------------------------------------------------------------------------------------------------------------- pieces

function scaleOf({ series, kind, spans, time }, plot) {
  const tops = spans.map((_, at) => {
    const values = series.map(({ values }) => Math.max(0, Number(values[at] ?? 0)));
    return kind === "columns" ? values.reduce((sum, value) => sum + value, 0) : Math.max(...values);
  });
  const sorted = tops.toSorted((a, b) => a - b);
  const usual = sorted[Math.floor((sorted.length - 1) * MOST)] ?? 0;
  const most = sorted.at(-1) ?? 0;
  const shown = time && usual > 0 && most > usual * PEAK_TIMES ? usual * 1.5 : most;
  const step = time ? NICE_MS.find((nice) => nice * (TICKS + 1) >= shown) ?? niceStep(shown / TICKS) : wholeStep(shown / TICKS);
  const top = step * Math.max(1, Math.ceil(shown / step));
  const scale = (value) => plot.top + plot.height * (1 - Math.min(top, Math.max(0, Number(value))) / top);
  scale.top = top;
  scale.ticks = Array.from({ length: Math.round(top / step) + 1 }, (_, n) => n * step);
  return scale;
}

/** Counts have no halves. */
const wholeStep = (rough) => (rough <= 1 ? 1 : rough <= 2 ? 2 : rough <= 5 ? 5 : niceStep(rough));

function niceStep(rough) {
  const power = 10 ** Math.floor(Math.log10(rough));
  return power * NICE.find((nice) => nice * power >= rough * 0.999);
}

const grid = ({ tick }, plot, scale) =>
  s(
    "g",
    { class: "grid" },
    scale.ticks.map((value) => [
      s("line", { x1: plot.left, x2: plot.left + plot.width, y1: crisp(scale(value)), y2: crisp(scale(value)), class: value === 0 ? "base" : null }),
      s("text", { x: plot.left - 8, y: scale(value) + 3.5, "text-anchor": "end" }, tick(value)),
    ]),
  );

/** Labels at round times: midnights, or hours that divide the day. */
function timeAxis({ spans }, plot, height) {
  if (!spans.length) return s("g");
  const step = plot.width / spans.length;
  const length = Date.parse(spans[0].end) - Date.parse(spans[0].start);
  const choices = length >= DAY_MS ? [1, 2, 5, 7, 10, 15, 30].map((days) => days * DAY_MS) : [1, 2, 3, 6, 12, 24, 48].map((hours) => (hours * DAY_MS) / 24);
  const every = choices.find((choice) => (choice / length) * step >= LABEL_PX) ?? choices.at(-1);
  const hourly = length < DAY_MS && spans.length < DAYS_ONLY;
  const labels = spans
    .map(({ start }, at) => ({ at, start: Date.parse(start) }))
    .filter(({ at, start }) => (length >= DAY_MS ? (spans.length - 1 - at) % Math.round(every / length) === 0 : start % every === 0))
    .map(({ at, start }) => ({ x: plot.left + step * at + (length >= DAY_MS ? step / 2 : 0), text: every < DAY_MS && start % DAY_MS !== 0 ? clock(start) : date(start), day: start % DAY_MS === 0 }))
    .filter(({ day }) => hourly || day)
    .filter(({ x }) => x >= plot.left + 4 && x <= plot.left + plot.width - 20);
  return s(
    "g",
    { class: "time" },
    labels.map(({ x, text, day }) => [
      length < DAY_MS && s("line", { x1: crisp(x), x2: crisp(x), y1: plot.top + plot.height, y2: plot.top + plot.height + 4 }),
      s("text", { x, y: height - 5, "text-anchor": "middle", class: day ? "day" : null }, text),
    ]),
  );
}

function columns({ series, spans }, plot, scale) {
  const step = plot.width / spans.length;
  const width = Math.max(1, step - Math.min(GAP_MAX_PX, step * 0.24));
  const paths = series.map(() => []);
  spans.forEach((_, at) => {
    let low = 0;
    const x = round(plot.left + step * at + (step - width) / 2);
    series.forEach(({ values }, n) => {
      const value = Math.max(0, Number(values[at] ?? 0));
      if (value === 0) return;
      const [y0, y1] = [scale(low), scale(low + value)];
      paths[n].push(`M${x} ${round(y0)}V${round(y1)}h${round(width)}V${round(y0)}z`);
      low += value;
    });
  });
  return s("g", { class: "columns" }, series.map(({ key, shape }, n) => [
    s("path", { d: paths[n].join(""), class: `fill ${key}` }),
    shape !== "solid" && s("path", { d: paths[n].join(""), fill: `url(#${shape})` }),
  ]));
}

function lines({ series, spans, format }, plot, scale) {
  const step = plot.width / spans.length;
  const x = (at) => round(plot.left + step * (at + 0.5));
  return s("g", { class: "lines" }, cut(series, plot, scale, { x, format }), series.map(({ key, shape, values, area }) => {
    const runs = runsOf(values);
    const path = runs.map((run) => `M${run.map((at) => `${x(at)} ${round(scale(values[at]))}`).join("L")}`).join("");
    const base = round(plot.top + plot.height);
    return [
      area && s("path", { class: `area ${key}`, d: runs.map((run) => `M${x(run[0])} ${base}L${run.map((at) => `${x(at)} ${round(scale(values[at]))}`).join("L")}L${x(run.at(-1))} ${base}z`).join("") }),
      s("path", { class: `line ${key} ${shape}`, d: path }),
      runs.filter((run) => run.length === 1).map(([at]) => s("circle", { class: `dot ${key}`, cx: x(at), cy: round(scale(values[at])), r: 2 })),
    ];
  }));
}

/** The values that are higher than the chart: the highest of each stretch is named at the top. */
function cut(series, plot, scale, { x, format }) {
  const tops = series.map(({ values }) => values).reduce((all, values) => all.map((most, at) => Math.max(most, values[at] ?? 0)), series[0].values.map(() => 0));
  const over = tops.map((value) => (value > scale.top ? value : null));
  const peaks = runsOf(over).map((run) => run.reduce((best, each) => (over[each] > over[best] ? each : best), run[0]));
  const labels = []; // [left, right] of those that are written; the highest goes first, and none over another
  return peaks.toSorted((a, b) => over[b] - over[a]).map((at) => {
    const text = format(over[at]);
    const width = text.length * DIGIT_PX;
    const places = [[x(at) + 8, x(at) + 8 + width, "start"], [x(at) - 8 - width, x(at) - 8, "end"]];
    if (x(at) > plot.left + plot.width * 0.75) places.reverse();
    const isFree = ([from, to]) =>
      labels.every(([left, right]) => to < left - 12 || from > right + 12) && peaks.every((other) => other === at || to < x(other) - 6 || from > x(other) + 6);
    const place = places.find((each) => each[0] >= plot.left && each[1] <= plot.left + plot.width && isFree(each));
    if (place) labels.push([Math.min(place[0], x(at) - 4), Math.max(place[1], x(at) + 4)]);
    return s("g", { class: "cut" }, s("path", { d: `M${x(at) - 4} ${plot.top - 3}h8l-4 -6z` }), place && s("text", { x: place[2] === "end" ? place[1] : place[0], y: plot.top - 2, "text-anchor": place[2] }, text));
  });
}

/** Indexes of values in stretches without a gap. */
function runsOf(values) {
  const runs = [];
  values.forEach((value, at) => {
    if (value === null || value === undefined) return;
    if (runs.at(-1)?.at(-1) === at - 1) runs.at(-1).push(at);
    else runs.push([at]);
  });
  return runs;
}

const patterns = () =>
  s(
    "defs",
    {},
    s("pattern", { id: "dashed", width: 5, height: 5, patternUnits: "userSpaceOnUse", patternTransform: "rotate(45)" }, s("rect", { width: 2, height: 5, class: "ink" })),
    s("pattern", { id: "dotted", width: 4, height: 4, patternUnits: "userSpaceOnUse" }, s("rect", { width: 2, height: 2, class: "ink" })),
  );

/** A small sample of how a series is drawn. */
export function swatch(key, shape) {
  if (shape === "line" || shape === "line dashed-line") {
    return s("svg", { class: "swatch", viewBox: "0 0 18 10", "aria-hidden": "true" }, s("path", { d: "M1 5h16", class: `line ${key} ${shape.split(" ")[1] ?? ""}` }));
  }
  return s(
    "svg",
    { class: "swatch box", viewBox: "0 0 10 10", "aria-hidden": "true" },
    s("rect", { width: 10, height: 10, rx: 2, class: `fill ${key}` }),
    shape !== "solid" && s("rect", { width: 10, height: 10, rx: 2, fill: `url(#${shape})` }),
  );
}

const legend = (series) =>
  h("ul", { class: "legend", "aria-label": "Series" }, series.map(({ name, key, shape }) => h("li", {}, swatch(key, shape), name)));

/** Rates of stretches of rows, few enough for a sparkline: sums are divided, rates are never averaged. */
export function thinned(parts, wholes) {
  const step = Math.ceil(parts.length / SPARK_POINTS_MAX) || 1;
  return Array.from({ length: Math.ceil(parts.length / step) }, (_, n) => {
    const sum = (values) => values.slice(n * step, (n + 1) * step).reduce((total, value) => total + Number(value), 0);
    const whole = sum(wholes);
    return whole > 0 ? sum(parts) / whole : null;
  });
}

/** A line without axes for a table cell; `label` says in words what it shows. */
export function sparkline(values, key, label, { width = 112, height = 26, top = null } = {}) {
  const most = top ?? Math.max(...values.map((value) => Number(value ?? 0)), 0);
  const step = width / Math.max(1, values.length);
  const y = (value) => round(height - 2 - (most === 0 ? 0 : (Math.max(0, Number(value)) / most) * (height - 5)));
  const x = (at) => round(step * (at + 0.5));
  const runs = runsOf(values);
  const trace = (run) => run.map((at) => `${x(at)} ${y(values[at])}`).join("L");
  return s(
    "svg",
    { class: "spark", viewBox: `0 0 ${width} ${height}`, width, height, role: "img", "aria-label": label },
    s("path", { class: "base", d: `M0 ${height - 1.5}H${width}` }),
    s("path", { class: `area ${key}`, d: runs.map((run) => `M${x(run[0])} ${height - 2}L${trace(run)}L${x(run.at(-1))} ${height - 2}z`).join("") }),
    s("path", { class: `line ${key}`, d: runs.map((run) => `M${trace(run)}`).join("") }),
  );
}

const clamp = (value, low, high) => Math.min(high, Math.max(low, value));
const round = (value) => Math.round(value * 10) / 10;
const crisp = (value) => Math.round(value) + 0.5;
