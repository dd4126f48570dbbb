"use strict";
// Replaces the live part every three seconds while the page is in view. Without it the page reloads itself.
(function () {
  const box = document.getElementById("live");
  async function refresh() {
    if (document.hidden) return;
    try {
      const r = await fetch("/live", { credentials: "same-origin", cache: "no-store" });
      if (r.status === 401) { location.reload(); return; }
      if (r.ok) box.innerHTML = await r.text();
    } catch { /* the broker is away: the last state stays, with its time */ }
  }
  setInterval(refresh, 3000);
})();
