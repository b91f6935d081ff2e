"use strict";
(() => {
  const root = document.documentElement;
  const button = document.getElementById("theme");
  const status = document.getElementById("status");
  const prefersDark = window.matchMedia("(prefers-color-scheme: dark)");
  const KEY = "msft-lite-theme";

  const recall = () => { try { return localStorage.getItem(KEY); } catch { return null; } };
  const remember = (theme) => { try { localStorage.setItem(KEY, theme); } catch { /* not allowed here */ } };
  const isDark = () => (root.dataset.theme ? root.dataset.theme === "dark" : prefersDark.matches);
  const label = () => { button.textContent = isDark() ? "Light" : "Dark"; };

  const chosen = recall();
  if (chosen === "dark" || chosen === "light") root.dataset.theme = chosen;
  button.addEventListener("click", () => {
    root.dataset.theme = isDark() ? "light" : "dark";
    remember(root.dataset.theme);
    label();
  });
  prefersDark.addEventListener("change", label);
  button.hidden = false;
  label();

  window.addEventListener("beforeprint", () => {
    for (const part of document.querySelectorAll("details")) part.open = true;
  });

  // A page in a file has no version and asks for nothing.
  if (!root.dataset.version) return;

  const say = (text, isLost) => {
    status.hidden = false;
    if (status.textContent !== text) status.textContent = text;
    status.classList.toggle("lost", isLost);
  };

  // Where the reader is: what was opened or closed, how far every box is scrolled, and where the
  // section in view stands, as tables above it may have grown. Parts are known by their section
  // and their number in it.
  const parts = (selector) => [...document.querySelectorAll("#page > section")].flatMap((section) =>
    [...section.querySelectorAll(selector)].map((part, k) => [`${section.id} ${k}`, part]));
  const places = () => {
    const sections = [...document.querySelectorAll("#page > section")];
    const seen = sections.findLast((section) => section.getBoundingClientRect().top <= 60);
    return {
      opened: new Map(parts("details").map(([name, part]) => [name, part.open])),
      scrolled: new Map(parts(".scroll").map(([name, part]) => [name, part.scrollLeft])),
      id: seen ? seen.id : null,
      top: seen ? seen.getBoundingClientRect().top : 0,
      x: window.scrollX,
      y: window.scrollY,
    };
  };
  const restore = (place) => {
    for (const [name, part] of parts("details")) part.open = place.opened.get(name) ?? part.open;
    for (const [name, part] of parts(".scroll")) part.scrollLeft = place.scrolled.get(name) ?? 0;
    const seen = place.id && document.getElementById(place.id);
    const moved = seen ? seen.getBoundingClientRect().top + window.scrollY - place.top : place.y;
    window.scrollTo({ left: place.x, top: moved, behavior: "instant" });
  };

  const swap = async () => {
    const answer = await fetch("/", { cache: "no-store" });
    const fresh = new DOMParser().parseFromString(await answer.text(), "text/html");
    const page = fresh.getElementById("page");
    if (!answer.ok || !page) throw new Error("no page");
    const place = places();
    document.getElementById("page").replaceChildren(...page.childNodes);
    document.title = fresh.title;
    root.dataset.version = fresh.documentElement.dataset.version;
    restore(place);
  };
  const look = async () => {
    try {
      const answer = await fetch("/state", { cache: "no-store" });
      const state = await answer.json();
      if (state.version !== root.dataset.version) await swap();
      say("live", false);
    } catch {
      say("no answer from the server; this page may be old", true);
    }
    window.setTimeout(look, 2000);
  };
  window.setTimeout(look, 2000);
})();
