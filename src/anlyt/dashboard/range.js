// The period: presets, the one before and the one after, and days of one's own.

import { h, tool } from "./dom.js";
import { DAY_MS, period as periodText } from "./format.js";
import { iso, periodOf, RANGES, shift } from "./state.js";

const DAYS_MAX = 366;

/** The range picker of a state. */
export function rangeBar(state, tell) {
  const period = periodOf(state, tell.now());
  const [before, after] = [shift(state, tell.now(), -1), shift(state, tell.now(), 1)];
  const preset = ({ id, label, title }) =>
    h("button", { type: "button", "aria-pressed": String(state.range === id), title, "data-key": `range ${id}`, onclick: () => tell.go({ ...state, range: id, from: null, to: null }) }, label);
  return [
    h("div", { class: "segmented", role: "group", "aria-label": "Period" }, RANGES.map(preset), custom(state, period, tell)),
    h("div", { class: "steps", role: "group", "aria-label": "Move the period" }, tool("back", "The period before", () => tell.go(before), { "data-key": "before" }), tool("next", "The period after", () => tell.go(after), { disabled: after === null, "data-key": "after" })),
  ];
}

/** The button of the custom period, and the two days behind it. */
function custom(state, period, tell) {
  const today = iso(tell.now()).slice(0, 10);
  const field = (id, label, value) => {
    const input = h("input", { type: "date", id, required: true, max: today });
    input.value = value;
    return [h("label", { for: id }, label), input];
  };
  const [fromLabel, from] = field("from", "From", iso(period.start).slice(0, 10));
  const [toLabel, to] = field("to", "To, that day included", iso(Math.min(period.end - 1, tell.now())).slice(0, 10));
  const told = h("p", { class: "problem", role: "alert", hidden: true });
  const apply = (event) => {
    event.preventDefault();
    const [start, end] = [Date.parse(from.value), Date.parse(to.value) + DAY_MS];
    const wrong = !(start < end) ? "The first day is after the last." : end - start > DAYS_MAX * DAY_MS ? `At most ${DAYS_MAX} days.` : null;
    told.hidden = wrong === null;
    told.textContent = wrong ?? "";
    if (wrong) return;
    dialog.close();
    tell.go({ ...state, range: "custom", from: start, to: end });
  };
  const dialog = h(
    "dialog",
    { class: "dates", "aria-label": "Choose days", onclick: (event) => event.target === dialog && dialog.close() },
    h("form", { onsubmit: apply }, h("h2", {}, "Choose days"), h("div", { class: "fields" }, h("div", {}, fromLabel, from), h("div", {}, toLabel, to)), told, h("div", { class: "buttons" }, h("button", { type: "button", class: "plain", onclick: () => dialog.close() }, "Cancel"), h("button", { type: "submit", class: "primary" }, "Show"))),
  );
  const chosen = state.range === "custom";
  return [
    h("button", { type: "button", "aria-pressed": String(chosen), "aria-haspopup": "dialog", "data-key": "range custom", onclick: () => dialog.showModal() }, chosen ? periodText(period.start, period.end) : "Days…"),
    dialog,
  ];
}
