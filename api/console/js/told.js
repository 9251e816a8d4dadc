// Numbers and instants as a person reads them.

const units = ["B", "kB", "MB", "GB", "TB"];

export function bytes(count) {
  if (count === null || count === undefined) return "–";
  let value = count;
  let unit = 0;
  while (value >= 1000 && unit < units.length - 1) [value, unit] = [value / 1000, unit + 1];
  return `${value >= 100 || unit === 0 ? Math.round(value) : value.toFixed(1)} ${units[unit]}`;
}

export function ms(value) {
  if (value === null || value === undefined || Number.isNaN(value)) return "–";
  if (value < 10) return `${value.toFixed(1)} ms`;
  return value < 1000 ? `${Math.round(value)} ms` : `${(value / 1000).toFixed(value < 10000 ? 2 : 1)} s`;
}

export const number = (value, digits = 0) =>
  value === null || value === undefined || Number.isNaN(value)
    ? "–"
    : value.toLocaleString("en", { maximumFractionDigits: digits });

export const percent = (share) => (share === null || share === undefined ? "–" : `${(100 * share).toFixed(share < 0.1 ? 1 : 0)} %`);

export const clock = (instant) => (instant ? new Date(instant).toLocaleTimeString("en-GB") : "–");

export const day = (instant) => (instant ? new Date(instant).toLocaleString("en-GB") : "–");

/** Milliseconds from one instant to another; undefined where one is missing. */
export const between = (from, to) => (from && to ? new Date(to) - new Date(from) : undefined);

/** As the lists' filters take them. */
export const labels = (given) => Object.entries(given).map(([name, value]) => `${name}:${value}`).join(", ");
