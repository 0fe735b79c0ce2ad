// Runs before the first paint: the colours chosen, or those of the system, so that nothing flashes.
(() => {
  let theme = "auto";
  try {
    theme = JSON.parse(localStorage.getItem("bmqwen.preferences"))?.theme ?? "auto";
  } catch {
    // No storage, or not ours: the system's colours.
  }
  const dark = theme === "dark" || (theme !== "light" && matchMedia("(prefers-color-scheme: dark)").matches);
  document.documentElement.dataset.theme = dark ? "dark" : "light";
})();
