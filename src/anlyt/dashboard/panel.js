// A panel: one question, its answer as a picture or as a table, and where it comes from. It keeps what it shows while
// newer numbers are on their way, and says so when they do not come.

import { curl } from "./api.js";
import { COUNTED } from "./counted.js";
import { h, renew, tool } from "./dom.js";

const COPIED_MS = 1600;
const SAVED_MS = 10_000; // a file is written by then
const FORMULA = /^[=+\-@\t\r]/;

/**
 * <anlyt-panel>. `setup({id, title, how, wide, tabled, onmode})` once; then `show(answer)` with
 * {paths, note, picture, table: {caption, columns, rows}, empty, partial}, or `fail(problem, retry)`; `partial`: more is coming.
 * A column is {name, key, numeric, text, cell}: `text` is the exact value for CSV, `cell` what the table shows.
 */
class Panel extends HTMLElement {
  #spec = null;
  #answer = null;
  #tabled = false;

  setup(spec) {
    this.#spec = spec;
    this.#tabled = spec.tabled ?? false;
    this.id = `panel-${spec.id}`;
    this.className = `panel ${spec.wide ? "wide" : ""} ${spec.className ?? ""}`;
    this.setAttribute("role", "region");
    this.setAttribute("aria-label", spec.title);
    this.setAttribute("aria-busy", "true");
    this.body = h("div", { class: "body" }, skeleton());
    this.note = h("p", { class: "note" });
    this.tools = h("div", { class: "tools" });
    this.told = h("div", { class: "told", hidden: true });
    this.append(h("header", {}, h("div", {}, h("h2", {}, spec.title), this.note), this.tools), this.told, this.body);
    return this;
  }

  /** Whether nothing has been shown yet. */
  get waiting() {
    return this.#answer === null;
  }

  show(answer) {
    this.#answer = answer;
    this.setAttribute("aria-busy", String(answer.partial ?? false));
    this.classList.remove("stale");
    this.told.hidden = true;
    this.#render();
  }

  /** Nothing came: keep what is there and say since when, or say what is wrong in its place. */
  fail(problem, retry) {
    this.setAttribute("aria-busy", "false");
    const again = h("button", { type: "button", class: "plain", "data-key": `retry ${this.id}`, onclick: retry }, "Try again");
    if (this.#answer) {
      this.classList.add("stale");
      this.told.hidden = false;
      renew(this.told, h("p", {}, "These numbers are no longer renewed. ", problem.message), again);
      return;
    }
    renew(
      this.body,
      h("div", { class: "state error", role: "alert" }, h("h3", {}, problem.title ?? "This did not work"), h("p", {}, problem.message), problem.requestId && h("p", { class: "id" }, "Request ", h("code", {}, problem.requestId)), again),
    );
  }

  #render() {
    const { paths = [], note = "", picture, table, part, empty, tools = [] } = this.#answer;
    renew(this.note, note);
    const both = picture && table;
    renew(
      this.tools,
      ...tools,
      both && tool(this.#tabled ? "chart" : "table", this.#tabled ? `${this.#spec.title} as a picture` : `${this.#spec.title} as a table`, () => this.#toggle(), { "data-key": `mode ${this.id}`, "aria-pressed": String(this.#tabled) }),
      table?.rows.length > 0 && tool("csv", `${this.#spec.title} as CSV`, () => this.#save(), { "data-key": `csv ${this.id}` }),
      paths.length > 0 && tool("curl", `Copy ${this.#spec.title} as curl`, (event) => this.#copy(event.currentTarget), { "data-key": `curl ${this.id}` }),
      this.#spec.how && tool("how", `How is ${this.#spec.title} counted?`, () => explain(this.#spec), { "data-key": `how ${this.id}` }),
    );
    if (empty) renew(this.body, h("div", { class: "state empty" }, h("h3", {}, empty.title), h("p", {}, empty.text)));
    else if (this.#tabled || !picture) renew(this.body, tableOf(part ?? table, this.#spec.title));
    else this.#picture(picture);
  }

  #picture(picture) {
    const made = picture(this.body);
    if (made) renew(this.body, made);
  }

  #toggle() {
    this.#tabled = !this.#tabled;
    this.body.replaceChildren();
    this.#render();
    this.#spec.onmode?.(this.#tabled);
  }

  #save() {
    const { table } = this.#answer;
    const lines = [table.columns.map(({ key, name }) => key ?? name), ...table.rows.map((row) => table.columns.map(({ text }) => defuse(text(row))))];
    const content = lines.map((line) => line.map(quote).join(",")).join("\r\n") + "\r\n";
    const link = h("a", { href: URL.createObjectURL(new Blob([content], { type: "text/csv" })), download: `anlyt-${this.#spec.id}.csv` });
    link.click();
    setTimeout(() => URL.revokeObjectURL(link.href), SAVED_MS);
  }

  async #copy(button) {
    await copyText(curl(this.#answer.paths));
    button.classList.add("done");
    button.setAttribute("aria-label", "Copied; set ANLYT_KEY in your terminal");
    announce("Copied. Set ANLYT_KEY in your terminal.");
    setTimeout(() => {
      button.classList.remove("done");
      button.setAttribute("aria-label", `Copy ${this.#spec.title} as curl`);
    }, COPIED_MS);
  }
}
customElements.define("anlyt-panel", Panel);

/** A panel that waits for its first answer. */
export const panel = (spec) => document.createElement("anlyt-panel").setup(spec);

export const skeleton = () => h("div", { class: "skeleton", "aria-hidden": "true" }, h("i"), h("i"), h("i"));

/** A table that scrolls inside of its panel. */
export function tableOf({ columns, rows, caption, above, foot }, title) {
  return h(
    "div",
    { class: "scroll", tabindex: 0, role: "region", "aria-label": `${title}, table` },
    above,
    h(
      "table",
      {},
      h("caption", { class: "unseen" }, caption ?? title),
      h("thead", {}, h("tr", {}, columns.map(({ name, numeric, hint }) => h("th", { scope: "col", class: numeric ? "number" : null, title: hint }, name)))),
      h("tbody", {}, rows.map((row) => h("tr", {}, columns.map(({ cell, text, numeric, head }) => h(head ? "th" : "td", { class: numeric ? "number" : null, scope: head ? "row" : null }, cell ? cell(row) : text(row)))))),
    ),
    foot,
  );
}

function quote(value) {
  return /[",\r\n]/.test(value) ? `"${value.replaceAll('"', '""')}"` : value;
}

/** Text that a spreadsheet would run gets a quote mark before it; numbers stay as they are. */
function defuse(value) {
  const text = value === null || value === undefined ? "" : String(value);
  return FORMULA.test(text) && !/^-?\d+(\.\d+)?$/.test(text) ? `'${text}` : text;
}

function explain({ title, how }) {
  const { text, formula } = COUNTED[how];
  const dialog = h(
    "dialog",
    { class: "how", "aria-label": `How is ${title} counted?`, onclose: () => dialog.remove(), onclick: (event) => event.target === dialog && dialog.close() },
    h("header", {}, h("h2", {}, `How is “${title}” counted?`), tool("close", "Close", () => dialog.close())),
    h("div", { class: "prose" }, text.map((sentence) => h("p", {}, sentence)), formula && h("pre", {}, formula)),
  );
  document.body.append(dialog);
  dialog.showModal();
}

async function copyText(text) {
  try {
    await navigator.clipboard.writeText(text);
  } catch {
    // No permission or no secure context: select it in a field and copy that.
    const field = h("textarea", { class: "unseen", readonly: true });
    field.value = text;
    document.body.append(field);
    field.select();
    document.execCommand("copy");
    field.remove();
  }
}

/** Say something to screen readers only. */
export function announce(text) {
  const place = document.getElementById("announcer");
  if (place) place.textContent = text;
}

/** Asks before something that cannot be undone; resolves to whether it was agreed to. */
export function confirmed(title, text, verb) {
  return new Promise((resolve) => {
    const dialog = h(
      "dialog",
      { class: "ask", "aria-label": title, onclose: () => { resolve(dialog.returnValue === "yes"); dialog.remove(); } },
      h("h2", {}, title),
      h("p", {}, text),
      h("form", { method: "dialog" }, h("button", { value: "no", class: "plain", autofocus: true }, "Cancel"), h("button", { value: "yes", class: "danger" }, verb)),
    );
    document.body.append(dialog);
    dialog.showModal();
  });
}
