// The page: who is signed in, what the address says, and the numbers for both. Everything is asked of the public API.

import { address, call, serviceNow } from "./api.js";
import { h, icon, renew, tool } from "./dom.js";
import { shortId } from "./format.js";
import { badge, logo, themeButton } from "./frame.js";
import { follow } from "./live.js";
import { overview } from "./overview.js";
import { subjectOf } from "./questions.js";
import { rangeBar } from "./range.js";
import { signIn } from "./signin.js";
import { staff } from "./staff.js";
import { readState, writeState } from "./state.js";

const place = document.getElementById("app");
const WHO = { PLATFORM: "Platform", OPERATOR: "Operator", ACCOUNT: "Account" };

let current = null; // what runs now: {stop}

async function start() {
  let session;
  try {
    session = await call("/v1/session");
  } catch (problem) {
    if (problem.status === 401 || problem.status === 403) return showSignIn();
    return showUnreachable(problem);
  }
  await run(session);
}

function showSignIn(message = "") {
  current?.stop();
  current = null;
  document.title = "Sign in · anlyt";
  signIn(place, { message, onsession: run });
}

function showUnreachable(problem) {
  renew(place, h("main", { id: "main", class: "signin" }, h("div", { class: "brand" }, logo(), h("h1", {}, "anlyt")), h("div", { class: "card state error", role: "alert" }, h("h2", {}, problem.title), h("p", {}, problem.message), h("button", { type: "button", class: "primary", onclick: start }, "Try again"))));
}

function run(session) {
  if (!session.permissions.includes("metrics:read")) return showSignIn("This key is valid, but lacks the permission metrics:read; ask for one that has it.");
  const show = build(session, call("/v1/names").then(({ data }) => data, () => []));
  show(readState(location.search));
}

/** The frame, and a function that shows a state in it. Numbers are asked for at once; names are there when they come. */
function build(session, names) {
  current?.stop();
  const fresh = badge();
  const range = h("div", { class: "range" });
  const where = h("div", { class: "where" });
  const main = h("main", { id: "main", tabindex: -1 });
  const nav = h("nav", { "aria-label": "Pages" });
  let shown = null;
  let state = null;
  let lastGood = serviceNow();

  const tell = {
    names: new Map(),
    accounts: [], // that have a name
    named: names.then((found) => {
      for (const { id, name } of found) tell.names.set(id, name);
      tell.accounts.push(...found.filter(({ scope }) => scope === "ACCOUNT").map(({ id }) => id));
    }),
    now: serviceNow,
    link: writeState,
    go: (next) => {
      history.pushState(null, "", writeState(next));
      show(next);
    },
    onmode: (id, tabled) => {
      state.tables = state.tables.filter((name) => name !== id).concat(tabled ? [id] : []);
      history.replaceState(null, "", writeState(state));
    },
    onmeta: (meta) => {
      lastGood = serviceNow();
      fresh.update(meta);
    },
    onproblem: (problem) => {
      if (problem.status === 401) showSignIn(problem.message);
      else if (problem.status === 0 || problem.status >= 500) fresh.lost(lastGood);
    },
  };

  function show(next) {
    state = next;
    shown?.stop();
    live.narrow(newsOf(session, next));
    const staffed = state.view === "status" && session.scope === "PLATFORM";
    shown = staffed ? staff(session, state, tell) : overview(session, state, tell);
    renew(nav, session.scope === "PLATFORM" ? [link("Overview", "overview"), link("Status", "status")] : []);
    name(staffed);
    tell.named.then(() => state === next && name(staffed));
    renew(range, staffed ? [] : rangeBar(state, tell));
    main.replaceChildren(shown.place);
    shown.refresh();
  }

  function name(staffed) {
    renew(where, staffed ? h("h1", {}, "Status") : headline(session, state, tell));
    document.title = `${where.querySelector("h1").textContent} · anlyt`;
  }

  const link = (label, view) =>
    h("a", { href: writeState({ ...state, view }), "aria-current": state.view === view ? "page" : null, "data-key": `nav ${view}`, onclick: (event) => { event.preventDefault(); tell.go({ ...state, view }); } }, label);

  const onpop = () => show(readState(location.search));
  window.addEventListener("popstate", onpop);
  const live = follow(newsOf(session, readState(location.search)), {
    onchange: () => shown?.refresh({ gently: true }),
    onprogress: (progress) => {
      lastGood = serviceNow();
      fresh.update(progress);
    },
  });
  current = {
    stop() {
      window.removeEventListener("popstate", onpop);
      live.stop();
      shown?.stop();
    },
  };
  renew(
    place,
    h("header", { class: "top" }, h("a", { class: "brand", href: "/", "aria-label": "anlyt, overview", onclick: (event) => { event.preventDefault(); tell.go(readState("")); } }, logo(), h("span", {}, "anlyt")), nav, fresh.place, h("div", { class: "actions" }, themeButton(), tool("out", `Sign out (${WHO[session.scope]} key)`, signOut))),
    h("div", { class: "bar" }, where, range),
    main,
    h("p", { id: "announcer", class: "unseen", role: "status" }),
    footer(),
  );
  return show;
}

/** The rows whose changes matter to a state: every change of the platform changes the platform's own row. */
function newsOf(session, state) {
  const { scope, ids } = subjectOf(session, state);
  return address("/v1/live", { scope, scopeId: ids });
}

function headline(session, state, tell) {
  const id = state.operator ?? state.account;
  const one = id ?? (session.scope !== "PLATFORM" && session.scopeIds.length === 1 ? session.scopeIds[0] : null);
  const kind = state.operator ? "Operator" : state.account ? "Account" : WHO[session.scope];
  const all = { ...state, operator: null, account: null };
  return [
    id && h("a", { class: "back", href: tell.link(all), "data-key": "back", onclick: (event) => { event.preventDefault(); tell.go(all); } }, icon("back"), "All"),
    h("h1", {}, one ? (tell.names.get(one) ?? shortId(one)) : session.scope === "PLATFORM" ? "Platform" : `${session.scopeIds.length} ${WHO[session.scope].toLowerCase()}s`),
    one && h("p", { class: "kind" }, kind, " ", h("code", { title: one }, one)),
  ];
}

async function signOut() {
  try {
    await call("/v1/session", { method: "DELETE" });
  } catch (problem) {
    if (problem.status !== 401) return showSignIn("Signing out did not reach the service; the session ends by itself, or close the browser.");
  }
  history.replaceState(null, "", "/");
  showSignIn();
}

const footer = () =>
  h("footer", {}, h("p", {}, "All times are UTC. Each event is counted exactly once."), h("p", {}, h("a", { href: "/docs" }, "The API behind these numbers")));

start();
