// Light or dark, and what style.css's colours are then: for what is drawn on a canvas, which knows no CSS.

import { useEffect, useState } from "./view.js";

const system = matchMedia("(prefers-color-scheme: dark)");

function isDark() {
  const chosen = document.documentElement.dataset.theme;
  return chosen === "dark" || (chosen !== "light" && system.matches);
}

/** Whether it is dark now; who uses it is drawn anew when that changes. */
export function useDark() {
  const [dark, setDark] = useState(isDark);
  useEffect(() => {
    const changed = () => setDark(isDark());
    addEventListener("themechange", changed);
    system.addEventListener("change", changed);
    return () => {
      removeEventListener("themechange", changed);
      system.removeEventListener("change", changed);
    };
  }, []);
  return dark;
}

/** What `var(--name)` is now. `element` has no text, so that its own colour can be had to ask with: of a variable the
 * browser tells only how it was written. */
export function colourOf(element, name) {
  element.style.color = `var(--${name})`;
  return getComputedStyle(element).color;
}
