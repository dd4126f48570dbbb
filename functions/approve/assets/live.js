"use strict";
// Replaces the live part every three seconds while the page is in view, where it has changed. Without scripting the page reloads itself.
(function () {
  const box = document.getElementById("live");
  const state = document.getElementById("state");
  let last = null;

  function show(text) {
    const fresh = new DOMParser().parseFromString(text, "text/html");
    const parts = fresh.getElementById("parts"), stamp = fresh.getElementById("stamp");
    if (!parts || !stamp) throw new Error("not the live part");
    if (last !== parts.outerHTML) { // else focus and selection stay where they are
      const at = box.contains(document.activeElement) ? document.activeElement.getAttribute("href") : null;
      document.getElementById("parts").replaceWith(document.adoptNode(parts));
      last = parts.outerHTML;
      if (at) for (const a of box.querySelectorAll("a")) if (a.getAttribute("href") === at) { a.focus({ preventScroll: true }); break; }
    }
    document.getElementById("stamp").replaceWith(document.adoptNode(stamp));
  }

  async function refresh() {
    if (document.hidden) return;
    try {
      const r = await fetch("/live", { credentials: "same-origin", cache: "no-store" });
      if (r.status === 401) { location.reload(); return; }
      if (!r.ok) throw new Error(r.statusText);
      show(await r.text());
      state.textContent = "updates itself";
      state.className = "muted";
    } catch {
      state.textContent = "not up to date: Sallyport does not answer";
      state.className = "stale";
    }
  }

  state.textContent = "updates itself";
  setInterval(refresh, 3000);
  document.addEventListener("visibilitychange", refresh);
})();
