"use strict";
// Shows more of a running recording every two seconds, by taking over the page's own part from a fresh copy. Nothing of a recording is
// ever run or read as markup: the copy comes escaped from the server, as the page itself did.
(function () {
  const state = document.getElementById("state");
  let timer = null;

  async function refresh() {
    if (document.hidden) return;
    try {
      const r = await fetch(location.pathname, { credentials: "same-origin", cache: "no-store", redirect: "error" });
      if (!r.ok) throw new Error(r.statusText);
      const fresh = new DOMParser().parseFromString(await r.text(), "text/html").getElementById("recording");
      const now = document.getElementById("recording");
      if (!fresh) throw new Error("not the recording");
      if (fresh.outerHTML !== now.outerHTML) {
        const low = window.innerHeight + window.scrollY >= document.body.scrollHeight - 40;
        now.replaceWith(document.adoptNode(fresh));
        if (low) window.scrollTo(0, document.body.scrollHeight);
      }
      state.textContent = "updates itself";
      state.className = "muted";
      if (fresh.dataset.ended) { clearInterval(timer); state.textContent = ""; }
    } catch {
      state.textContent = "not up to date: Sallyport does not answer";
      state.className = "stale";
    }
  }

  timer = setInterval(refresh, 2000);
  document.addEventListener("visibilitychange", refresh);
})();
