// What /v1/watch has told over the last minutes, as lines to draw. Pure: no page, no clock.

const KEPT = 600; // events, one a second
const MOST_CHANGES = 100;
const WINDOW_MS = 30_000; // percentiles are of the jobs that ended in it

export const refOf = (one) => `${one.model}@${one.version}`;

/** The value that `share` of them are not above, by counts up to each bound (the last: all); NaN where there are none. */
export function percentile(counts, bounds, share) {
  const all = counts.at(-1);
  if (!all) return Number.NaN;
  const wanted = share * all;
  const at = counts.findIndex((count) => count >= wanted);
  if (at < 0 || at >= bounds.length) return bounds.at(-1); // above the last bound: nobody knows how far
  const [below, from] = at === 0 ? [0, 0] : [counts[at - 1], bounds[at - 1]];
  const inside = counts[at] - below;
  return from + (bounds[at] - from) * (inside ? (wanted - below) / inside : 1);
}

const sum = (numbers) => numbers.reduce((total, one) => total + one, 0);

/** Since `before`, of what only rises. A smaller number: the service has begun again. */
const risen = (now, before) => (now >= before ? now - before : now);

/** Versions that both events know, now and before: what has come with all its past has not happened since. */
function both(now, before) {
  const known = new Map(before.versions.map((one) => [refOf(one), one]));
  return now.versions.filter((one) => known.has(refOf(one))).map((one) => [one, known.get(refOf(one))]);
}

function latencies(now, before) {
  const rows = both(now, before).map(([one, old]) => one.latency.map((count, at) => risen(count, old.latency[at] ?? 0)));
  return now.bounds_ms.concat(0).map((_, at) => sum(rows.map((row) => row[at])));
}

const ended = (name) => (now, before) => sum(both(now, before).map(([one, old]) => risen(one[name], old[name])));

/** Another API process, which counts for itself, may have fewer: then nothing is known of this moment. */
function refused(now, before) {
  const [all, old] = [now, before].map((seen) => sum(Object.values(seen.refusals)));
  return all >= old ? all - old : 0;
}

function perSecond(now, before, happened) {
  const seconds = (new Date(now.at) - new Date(before.at)) / 1000;
  return seconds > 0 ? happened(now, before) / seconds : 0;
}

/** `{ "worker model@version": state }`, and each worker's own. */
function states(seen) {
  const rows = seen.workers.flatMap((one) => [
    [one.name, one.state],
    ...one.models.map((model) => [`${one.name} ${refOf(model)}`, model.state]),
  ]);
  return Object.fromEntries(rows);
}

export class History {
  #seen = [];
  points = [];
  /** What workers and their versions became, the newest first: `{ at, what, from, to }`; `from` or `to` empty: it was
   * not there, or is gone. */
  changes = [];

  /** One more event. While Redis is away there is a gap. */
  add(seen) {
    const at = new Date(seen.at) / 1000;
    const before = this.#seen.at(-1);
    if (!seen.up) {
      this.#keep({ at });
      return;
    }
    if (before) this.#compare(before, seen);
    const since = this.#seen.find((one) => new Date(seen.at) - new Date(one.at) <= WINDOW_MS) ?? before;
    const counts = before ? latencies(seen, since) : [];
    this.#seen.push(seen);
    if (this.#seen.length > KEPT) this.#seen.shift();
    this.#keep({
      at,
      queued: Object.fromEntries(seen.versions.map((one) => [refOf(one), one.queued])),
      busy: Object.fromEntries(seen.workers.map((one) => [one.name, one.busy ?? 0])),
      batch: Object.fromEntries(seen.workers.map((one) => [one.name, one.batch_size ?? Number.NaN])),
      rates: before
        ? {
            succeeded: perSecond(seen, before, ended("succeeded")),
            failed: perSecond(seen, before, ended("failed")),
            canceled: perSecond(seen, before, ended("canceled")),
            refused: perSecond(seen, before, refused),
          }
        : {},
      latency: before
        ? Object.fromEntries([50, 95, 99].map((share) => [`p${share}`, percentile(counts, seen.bounds_ms, share / 100)]))
        : {},
    });
  }

  #compare(before, seen) {
    const [old, now] = [states(before), states(seen)];
    for (const what of new Set([...Object.keys(old), ...Object.keys(now)]))
      if (old[what] !== now[what]) this.changes.unshift({ at: seen.at, what, from: old[what] ?? "", to: now[what] ?? "" });
    this.changes.length = Math.min(this.changes.length, MOST_CHANGES);
  }

  #keep(point) {
    this.points.push(point);
    if (this.points.length > KEPT) this.points.shift();
  }

  /** `[times, { name: values }]` of one kind of lines; null where nothing was told of one. */
  lines(kind) {
    const names = new Set(this.points.flatMap((point) => Object.keys(point[kind] ?? {})));
    const values = (name) =>
      this.points.map((point) => {
        const value = point[kind]?.[name];
        return value === undefined || Number.isNaN(value) ? null : value;
      });
    return [this.points.map((point) => point.at), Object.fromEntries([...names].map((name) => [name, values(name)]))];
  }
}
