// Lines over time.

import uPlot from "../vendor/uplot.js";
import { colourOf, useDark } from "./theme.js";
import { html, useEffect, useRef } from "./view.js";

const HEIGHT = 170;
const MOST = 8; // lines, each of a colour of its own: --line-1 and so on

const lineOf = (at) => `line-${at + 1}`;

const two = (value) => String(value).padStart(2, "0");

function timeOf(seconds) {
  const at = new Date(1000 * seconds);
  return `${two(at.getHours())}:${two(at.getMinutes())}:${two(at.getSeconds())}`;
}

function options(names, width, colour, told, top) {
  const grid = colour("grid");
  const axis = { stroke: colour("axis"), grid: { stroke: grid, width: 1 }, ticks: { stroke: grid } };
  return {
    width,
    height: HEIGHT,
    legend: { show: false },
    cursor: { show: false },
    scales: { y: { range: (_, __, most) => [0, Math.max(1.1 * (most ?? 0), top)] } },
    axes: [{ ...axis, space: 80, values: (_, ticks) => ticks.map(timeOf) }, { ...axis, size: 64, values: (_, ticks) => ticks.map(told) }],
    series: [{}, ...names.map((name, at) => ({ label: name, stroke: colour(lineOf(at)), width: 2, spanGaps: false, points: { show: false } }))],
  };
}

/** `lines`: as History.lines gives them; `told`: a value as text; `top`: where the scale ends at least. The newest values
 * stand beside the names. */
export function Plot({ title, lines: [times, values], told, top = 1 }) {
  const place = useRef(null);
  const plot = useRef(null);
  const dark = useDark();
  const names = Object.keys(values).slice(0, MOST);
  const shape = `${names.join("\n")}|${dark}`;
  useEffect(() => {
    const width = () => Math.max(place.current.clientWidth, 120);
    const colour = (name) => colourOf(place.current, name);
    plot.current = new uPlot(options(names, width(), colour, told, top), [times, ...names.map((name) => values[name])], place.current);
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
  return html`<section class="card plot" aria-label=${title}>
    <h2>${title}</h2>
    <div ref=${place} class="canvas" aria-hidden="true"></div>
    <ul class="legend">
      ${names.map((name, at) => html`<li><i style=${{ background: `var(--${lineOf(at)})` }}></i>${name} <b>${told(values[name].at(-1))}</b></li>`)}
    </ul>
  </section>`;
}
