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

  // Where the reader is: what was opened or closed, and how far every box is scrolled.
  const places = () => ({
    opened: [...document.querySelectorAll("details[id]")].map((part) => [part.id, part.open]),
    boxes: [...document.querySelectorAll(".scroll")].map((box) => box.scrollLeft),
    x: window.scrollX,
    y: window.scrollY,
  });
  const restore = (place) => {
    for (const [id, open] of place.opened) {
      const part = document.getElementById(id);
      if (part) part.open = open;
    }
    document.querySelectorAll(".scroll").forEach((box, k) => { box.scrollLeft = place.boxes[k] || 0; });
    window.scrollTo(place.x, place.y);
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
