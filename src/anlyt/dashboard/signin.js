// Signing in: the key goes into one request and nowhere else; the browser keeps a cookie that scripts cannot read.

import { call } from "./api.js";
import { h, renew } from "./dom.js";
import { logo } from "./frame.js";

/** The sign-in page; `onsession` is called with the session once there is one. */
export function signIn(place, { message = "", onsession }) {
  const key = h("input", { id: "key", name: "key", type: "password", required: true, autocomplete: "off", spellcheck: "false", autocapitalize: "none", placeholder: "anlyt_…", "aria-describedby": "key-hint" });
  const told = h("p", { class: "problem", role: "alert", hidden: !message }, message);
  const button = h("button", { type: "submit", class: "primary" }, "Sign in");
  const submit = async (event) => {
    event.preventDefault();
    button.disabled = true;
    told.hidden = true;
    try {
      const session = await call("/v1/session", { method: "POST", body: { key: key.value.trim() } });
      key.value = "";
      onsession(session);
    } catch (problem) {
      told.textContent = problem.message;
      told.hidden = false;
      key.select();
    } finally {
      button.disabled = false;
    }
  };
  renew(
    place,
    h(
      "main",
      { id: "main", class: "signin" },
      h("div", { class: "brand" }, logo(), h("h1", {}, "anlyt")),
      h("p", { class: "lead" }, "Delivery, latency and cost of your messages, each event counted exactly once."),
      h(
        "form",
        { onsubmit: submit, class: "card" },
        h("label", { for: "key" }, "API key"),
        key,
        h("p", { id: "key-hint", class: "hint" }, "A platform, operator or account key; you see what it may see. ", h("code", {}, "anlyt up"), " prints some, ", h("code", {}, "anlyt keys create"), " makes one."),
        told,
        button,
      ),
      h("p", { class: "small" }, "The session lasts twelve hours. The key is kept in a cookie that scripts cannot read."),
    ),
  );
  key.focus();
}
