// News from the service: changed rows over server-sent events; where those do not come, the page asks by itself.
// Only "something changed" is taken from an event. The numbers are then asked for like at the start, so that what is on
// the page is always one answer of the API and never a sum of the page's own.

const POLL_MS = 10_000;
const CALM_MS = 2_000; // least time between two refreshes
const RETRY_MS = 60_000; // after which a stream that was refused is tried again

/** Calls `onchange` when numbers may have changed, never while the page is hidden; `stop()` ends it. */
export function follow(path, onchange) {
  let source = null;
  let timer = null;
  let poll = null;
  let retry = null;
  let last = 0;
  let missed = false;

  const refresh = async () => {
    timer = null;
    if (document.hidden) {
      missed = true;
      return;
    }
    missed = false;
    await onchange();
    last = Date.now();
  };
  const soon = () => {
    timer ??= setTimeout(refresh, Math.max(0, last + CALM_MS - Date.now()));
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
    source.onopen = stopPolling;
    source.onerror = () => {
      startPolling();
      if (source.readyState === EventSource.CLOSED) retry ??= setTimeout(open, RETRY_MS);
    };
    source.onmessage = soon;
    for (const name of ["row", "rows", "change", "status", "reset", "complete"]) source.addEventListener(name, soon);
  };
  const wake = () => {
    if (!document.hidden && missed) soon();
  };

  document.addEventListener("visibilitychange", wake);
  startPolling();
  open();
  return {
    stop() {
      document.removeEventListener("visibilitychange", wake);
      source?.close();
      stopPolling();
      clearTimeout(timer);
      clearTimeout(retry);
    },
  };
}
