// The service's own state, for platform staff.
import { call } from "./api.js";
import { h } from "./dom.js";
import { count, dateTime, span } from "./format.js";
import { panel } from "./panel.js";

export function staff(session, tell) {
  const state = panel({ id: "state", title: "Counting", wide: true });
  const place = h("div", { class: "panels" }, state);
  const refresh = async () => {
    try {
      const status = await call("/v1/status");
      tell.onmeta(status);
      const facts = [["Counted", count(status.counted)], ["Duplicates ignored", count(status.duplicates)], ["Dead letters", count(status.deadLetters)], ["Lag", span(status.lagSeconds ?? 0)], ["As of", dateTime(status.asOf)]];
      state.show({ paths: ["/v1/status"], table: { columns: [{ name: "Fact", head: true, text: ([name]) => name }, { name: "Value", numeric: true, text: ([, value]) => value }], rows: facts } });
    } catch (problem) {
      state.fail(problem, refresh);
      tell.onproblem(problem);
    }
  };
  return { place, refresh, stop() {} };
}
