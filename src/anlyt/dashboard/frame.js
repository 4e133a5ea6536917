// What stands around the numbers: name, freshness, navigation, theme, signing out.

import { h, icon, s, tool } from "./dom.js";
import { clock, date, DAY_MS, span } from "./format.js";

const BEHIND_S = 120; // from here on the badge says that counting is behind
const THEMES = ["auto", "light", "dark"];
const THEME_ICONS = { auto: "auto", light: "sun", dark: "moon" };

export const logo = () =>
  s("svg", { viewBox: "0 0 32 32", class: "logo", "aria-hidden": "true" }, s("rect", { width: 32, height: 32, rx: 7 }), s("path", { d: "M8 23v-5M16 23V9M24 23v-9" }));

/** The button that goes through the three themes; the choice is remembered. */
export function themeButton() {
  const chosen = () => document.documentElement.dataset.theme ?? "auto";
  const label = () => `Theme: ${chosen() === "auto" ? "as the system" : chosen()}`;
  const button = tool(THEME_ICONS[chosen()], label(), () => {
    const next = THEMES[(THEMES.indexOf(chosen()) + 1) % THEMES.length];
    if (next === "auto") delete document.documentElement.dataset.theme;
    else document.documentElement.dataset.theme = next;
    try {
      localStorage.setItem("anlyt-theme", next);
    } catch {
      // Storage is switched off: the choice holds for this page only.
    }
    button.replaceChildren(icon(THEME_ICONS[next]));
    button.title = label();
    button.setAttribute("aria-label", label());
  });
  return button;
}

/** How fresh the numbers are: `update(meta)` with an answer's meta, `lost()` when nothing comes any more. */
export function badge() {
  const dot = h("i", { class: "dot" });
  const text = h("span");
  const place = h("p", { class: "badge", role: "status" }, dot, text);
  const say = (kind, words, title = "") => {
    if (text.textContent !== words) text.textContent = words;
    place.dataset.state = kind;
    place.title = title;
  };
  say("waiting", "Waiting for numbers");
  return {
    place,
    update({ completeThrough, lagSeconds, asOf }) {
      if (completeThrough === null) return say("behind", "Nothing has been counted yet");
      const old = Date.parse(asOf) - Date.parse(completeThrough) > DAY_MS ? `${date(completeThrough)} ` : "";
      const when = `${old}${clock(completeThrough)} UTC`;
      const exact = `Every event published before ${completeThrough} is in these numbers.`;
      if (lagSeconds > BEHIND_S) return say("behind", `Complete through ${when}, ${span(lagSeconds)} behind`, exact);
      return say("fresh", `Complete through ${when}`, exact);
    },
    lost(since) {
      say("lost", `No connection since ${clock(since)} UTC`, "The numbers are those of that time. The page keeps trying.");
    },
  };
}
