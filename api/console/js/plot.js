// Lines over time.

import uPlot from "../vendor/uplot.js";
import { html, useEffect, useRef, useState } from "./view.js";

const HEIGHT = 170;
const LIGHT = ["#2450c8", "#b45309", "#047857", "#be123c", "#7c3aed", "#0e7490", "#4d7c0f", "#86198f"];
const DARK = ["#8ab0ff", "#fbbf5a", "#4ade9f", "#fb8fa4", "#c4a7ff", "#67dbf0", "#b5e05a", "#f0a3f5"];

const MOST = LIGHT.length;

function useTheme() {
  const dark = () => {
    const chosen = document.documentElement.dataset.theme;
    return chosen === "dark" || (chosen !== "light" && matchMedia("(prefers-color-scheme: dark)").matches);
  };
  const [isDark, setDark] = useState(dark);
  useEffect(() => {
    const changed = () => setDark(dark());
    const system = matchMedia("(prefers-color-scheme: dark)");
    addEventListener("themechange", changed);
    system.addEventListener("change", changed);
    return () => {
      removeEventListener("themechange", changed);
      system.removeEventListener("change", changed);
    };
  }, []);
  return isDark;
}

const two = (value) => String(value).padStart(2, "0");

function timeOf(seconds) {
  const at = new Date(1000 * seconds);
  return `${two(at.getHours())}:${two(at.getMinutes())}:${two(at.getSeconds())}`;
}

function options(names, width, dark, told, top) {
  const [line, grid] = dark ? ["#c9d1dc", "#343c48"] : ["#414b59", "#e3e7ee"];
  const axis = { stroke: line, grid: { stroke: grid, width: 1 }, ticks: { stroke: grid } };
  const colours = dark ? DARK : LIGHT;
  return {
    width,
    height: HEIGHT,
    legend: { show: false },
    cursor: { show: false },
    scales: { y: { range: (_, __, most) => [0, Math.max(1.1 * (most ?? 0), top)] } },
    axes: [{ ...axis, space: 80, values: (_, ticks) => ticks.map(timeOf) }, { ...axis, size: 64, values: (_, ticks) => ticks.map(told) }],
    series: [{}, ...names.map((name, at) => ({ label: name, stroke: colours[at % MOST], width: 2, spanGaps: false, points: { show: false } }))],
  };
}

/** `lines`: as History.lines gives them; `told`: a value as text; `top`: where the scale ends at least. The newest values
 * stand beside the names. */
export function Plot({ title, lines: [times, values], told, top = 1 }) {
  const place = useRef(null);
  const plot = useRef(null);
  const dark = useTheme();
  const names = Object.keys(values).slice(0, MOST);
  const shape = `${names.join("\n")}|${dark}`;
  useEffect(() => {
    const width = () => Math.max(place.current.clientWidth, 120);
    plot.current = new uPlot(options(names, width(), dark, told, top), [times, ...names.map((name) => values[name])], place.current);
    const resized = new ResizeObserver(() => plot.current.setSize({ width: width(), height: HEIGHT }));
    resized.observe(place.current);
    return () => {
      resized.disconnect();
      plot.current.destroy();
    };
  }, [shape]);
  useEffect(() => {
    plot.current.setData([times, ...names.map((name) => values[name])]);
  }, [times.at(-1), shape]);
  const colours = dark ? DARK : LIGHT;
  return html`<section class="card plot" aria-label=${title}>
    <h2>${title}</h2>
    <div ref=${place} class="canvas" aria-hidden="true"></div>
    <ul class="legend">
      ${names.map((name, at) => html`<li><i style=${{ background: colours[at % MOST] }}></i>${name} <b>${told(values[name].at(-1))}</b></li>`)}
    </ul>
  </section>`;
}
