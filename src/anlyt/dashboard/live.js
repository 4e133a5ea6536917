// News from the service: changed rows over server-sent events; where those do not come, the page asks by itself.
// Only "something changed" is taken from a row. The numbers are then asked for like at the start, so that what is on the
// page is always one answer of the API and never a sum of the page's own.

const POLL_MS = 10_000;
const CALM_MS = 2_000; // least time between two refreshes
const CALM_TIMES = 5; // or so many times as long as the last one took: a busy service is asked less often
const RETRY_MS = 30_000; // after which a stream that was refused is tried again
const CONNECTION = ["online", "offline"];
const CHANGES = ["hourly", "operators", "reset"];

/**
 * Calls `onchange` when numbers may have changed, never while the page is hidden, and `onprogress` with how far counting
 * is. Gives {narrow(path), stop()}.
 */
export function follow(path, { onchange, onprogress }) {
  let source = null;
  let timer = null;
  let poll = null;
  let retry = null;
  let calm = CALM_MS;
  let last = Date.now();
  let missed = false;
  let lost = false;

  const refresh = async () => {
    missed = document.hidden;
    if (!missed) {
      const begun = Date.now();
      await onchange();
      last = Date.now();
      calm = Math.max(CALM_MS, CALM_TIMES * (last - begun));
    }
    timer = null;
  };
  const soon = () => {
    timer ??= setTimeout(refresh, Math.max(0, last + calm - Date.now()));
  };
  const startPolling = () => {
    poll ??= setInterval(soon, POLL_MS);
  };
  const stopPolling = () => {
    clearInterval(poll);
    poll = null;
  };
  const open = () => {
    retry = null;
    source = new EventSource(path);
    source.onopen = () => {
      stopPolling();
      if (lost) soon(); // what was asked meanwhile may have failed
      lost = false;
    };
    source.onerror = () => {
      lost = true;
      startPolling();
      soon(); // the page says at once whether the service is gone, or only this stream
      if (source.readyState === EventSource.CLOSED) retry ??= setTimeout(open, RETRY_MS);
    };
    for (const name of CHANGES) source.addEventListener(name, soon);
    source.addEventListener("progress", (event) => onprogress(JSON.parse(event.data)));
    source.addEventListener("end", (event) => JSON.parse(event.data).reason === "key" && soon());
  };
  const close = () => {
    source?.close();
    clearTimeout(retry);
    retry = null;
  };
  const wake = () => {
    if (!document.hidden && missed) soon();
  };

  document.addEventListener("visibilitychange", wake);
  for (const name of CONNECTION) window.addEventListener(name, soon);
  startPolling();
  open();
  return {
    narrow(next) {
      if (next === path) return;
      path = next;
      close();
      open();
    },
    stop() {
      document.removeEventListener("visibilitychange", wake);
      for (const name of CONNECTION) window.removeEventListener(name, soon);
      close();
      stopPolling();
      clearTimeout(timer);
    },
  };
}
