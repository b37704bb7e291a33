// Runs before the first paint, so that a chosen dark mode does not flash white. The application
// (src/shell/preferences.tsx) writes the same key and keeps the attribute up to date.
(function () {
  var mode = 'auto';
  try {
    mode = JSON.parse(localStorage.getItem('tributary.theme') || '"auto"');
  } catch {
    // Storage may be forbidden or hold nonsense: the system's mode is right then.
  }
  var dark = mode === 'dark' || (mode !== 'light' && matchMedia('(prefers-color-scheme: dark)').matches);
  document.documentElement.dataset.theme = dark ? 'dark' : 'light';
})();
