// Runs before the first paint, so that a chosen theme does not flash. The choice is all that is kept in the browser.
(() => {
  try {
    const chosen = localStorage.getItem("anlyt-theme");
    if (chosen === "light" || chosen === "dark") document.documentElement.dataset.theme = chosen;
  } catch {
    // Storage is switched off: the system's theme stays.
  }
})();
