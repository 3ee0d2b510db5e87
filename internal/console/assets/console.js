// Goes back as the browser's own button does, which keeps what was typed into the form.
document.querySelector("a[data-back]")?.addEventListener("click", (event) => {
  if (event.ctrlKey || event.metaKey || event.shiftKey) return;
  event.preventDefault();
  history.back();
});

// Keeps the parts of a page up to date that are marked with data-part, for as long as it can be seen.
(() => {
  const main = document.querySelector("main[data-live]");
  const state = document.getElementById("live-state");
  if (!main || !window.EventSource) return;
  let source;

  const marked = (part) => new Set(Array.from(part.querySelectorAll("input[type=checkbox]:checked"), (box) => box.value));
  // What is typed into stands outside of the parts, which are replaced.
  const isBusy = (part) => {
    const selection = document.getSelection();
    return !selection.isCollapsed && part.contains(selection.anchorNode);
  };
  // A link is known by where it leads, a button by what its form sends: the same place may be another row's by now.
  const identity = (element) => element.href ||
    [element.formAction, element.value, element.textContent, element.form && new URLSearchParams(new FormData(element.form))].join("\n");

  const replace = (html) => {
    const fresh = new DOMParser().parseFromString(html, "text/html");
    for (const part of main.querySelectorAll("[data-part]")) {
      const next = fresh.getElementById(part.id);
      if (!next || next.innerHTML === part.innerHTML || isBusy(part)) continue;
      const boxes = marked(part);
      const opened = Array.from(part.querySelectorAll("details[open]"), (each) => each.id);
      const scrolled = Array.from(part.querySelectorAll("pre"), (each) => each.scrollTop);
      const focusable = "a, button, input";
      const active = document.activeElement;
      const focused = part.contains(active) && active.matches(focusable) && identity(active);
      part.replaceChildren(...document.adoptNode(next).childNodes);
      for (const box of part.querySelectorAll("input[type=checkbox]")) box.checked = boxes.has(box.value);
      for (const id of opened) document.getElementById(id)?.setAttribute("open", "");
      part.querySelectorAll("pre").forEach((each, i) => { each.scrollTop = scrolled[i] || 0; });
      if (focused) Array.from(part.querySelectorAll(focusable)).find((each) => identity(each) === focused)?.focus({ preventScroll: true });
    }
  };

  const say = (text) => { state.hidden = false; if (state.textContent !== text) state.textContent = text; };
  const follow = () => {
    source?.close();
    if (document.hidden) return;
    source = new EventSource(location.href);
    source.onopen = () => say("Live");
    source.onmessage = (event) => replace(JSON.parse(event.data));
    source.onerror = () => say("Not live");
  };
  document.addEventListener("visibilitychange", follow);
  window.addEventListener("pagehide", () => source?.close());
  window.addEventListener("pageshow", (event) => { if (event.persisted) follow(); });
  follow();
})();
