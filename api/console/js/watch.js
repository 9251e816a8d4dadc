// The service as it works: once a second, over the last minutes.

import { History, refOf } from "./history.js";
import { State, Trouble } from "./parts.js";
import { Plot } from "./plot.js";
import { usePolling } from "./polling.js";
import { listen } from "./service.js";
import { bytes, clock, ms, number, percent } from "./told.js";
import { html, useState } from "./view.js";

const AGAIN_MS = 2000;
const SILENT_MS = 10_000; // ten times what is promised
const SILENCE = { message: "Nothing has been heard for ten seconds. Does a proxy hold text/event-stream back? Trying again." };
export const history = new History(); // outlives the view: who looks elsewhere for a moment keeps the minutes

function useSeen() {
  const [seen, setSeen] = useState(null);
  const [problem, setProblem] = useState(null);
  const look = async (signal) => {
    const silence = new AbortController();
    const wait = () => setTimeout(() => silence.abort(), SILENT_MS);
    let waiting = wait();
    const heard = (_, told) => {
      clearTimeout(waiting);
      waiting = wait();
      history.add(told);
      setSeen(told);
      setProblem(null);
    };
    try {
      await listen("v1/watch", heard, AbortSignal.any([signal, silence.signal]));
    } catch (error) {
      if (signal.aborted) return true;
      setProblem(silence.signal.aborted ? SILENCE : error);
      return error.status === 403;
    } finally {
      clearTimeout(waiting);
    }
    return false; // a stream that has ended is taken up again
  };
  usePolling(look, AGAIN_MS, []);
  return [seen, problem];
}

function Numbers({ seen }) {
  const rates = history.points.at(-1)?.rates ?? {};
  const sum = (name) => (seen.up ? seen.versions.reduce((total, one) => total + one[name], 0) : null);
  const told = [
    ["queued", number(sum("queued"))],
    ["running", number(sum("running"))],
    ["answers a second", number(seen.up ? (rates.succeeded ?? 0) : null, 1)],
    ["workers", number(seen.up ? seen.workers.filter((one) => one.state !== "failed").length : null)],
    ["dead letters", number(seen.dead_letters)],
    ["webhooks waiting", number(seen.webhooks_waiting)],
  ];
  return html`<dl class="numbers">${told.map(([name, value]) => html`<div><dt>${name}</dt><dd>${value}</dd></div>`)}</dl>`;
}

const Queues = ({ versions }) => html`<section class="card">
  <h2>Queues</h2>
  <div class="scroll" tabindex="0" role="region" aria-label="Queues">
    <table>
      <thead>
        <tr><th scope="col">version</th><th scope="col" class="number">queued</th><th scope="col" class="number">oldest</th><th scope="col" class="number">running</th><th scope="col" class="number">workers</th><th scope="col" class="number">succeeded</th><th scope="col" class="number">failed</th></tr>
      </thead>
      <tbody>
        ${versions.map(
          (one) => html`<tr key=${refOf(one)}>
            <th scope="row"><a href=${`#/models/${encodeURIComponent(one.model)}`}>${refOf(one)}</a>${one.paused ? " (paused)" : ""}</th>
            <td class="number">${number(one.queued)} <small>of ${number(one.limit)}</small></td>
            <td class="number">${one.oldest_s > 0 ? ms(1000 * one.oldest_s) : "–"}</td>
            <td class="number">${number(one.running)}</td>
            <td class="number">${number(one.workers)}</td>
            <td class="number">${number(one.succeeded)}</td>
            <td class="number">${number(one.failed)}</td>
          </tr>`,
        )}
      </tbody>
    </table>
  </div>
</section>`;

const deviceOf = (one) => (one.gpu?.name ? `${one.device} ${one.gpu.name}` : (one.device ?? "–"));

const Workers = ({ workers }) => html`<section class="card">
  <h2>Workers</h2>
  ${workers.length === 0 && html`<p class="faint">No worker lives. Jobs wait for one.</p>`}
  <div class="scroll" tabindex="0" role="region" aria-label="Workers">
    <table>
      <thead>
        <tr><th scope="col">worker</th><th scope="col">state</th><th scope="col">device</th><th scope="col" class="number">busy</th><th scope="col" class="number">jobs/s</th><th scope="col" class="number">batch</th><th scope="col" class="number">held</th><th scope="col" class="number">memory</th><th scope="col">has</th></tr>
      </thead>
      <tbody>
        ${workers.map(
          (one) => html`<tr key=${one.id}>
            <th scope="row">${one.name}</th>
            <td><${State} state=${one.state} /></td>
            <td>${deviceOf(one)}</td>
            <td class="number">${percent(one.busy)}</td>
            <td class="number">${number(one.jobs_per_s, 1)}</td>
            <td class="number">${number(one.batch_size, 1)}</td>
            <td class="number">${number(one.held)}</td>
            <td class="number">${bytes(one.memory_bytes)}${one.device_memory ? ` + ${bytes(one.device_memory.used_bytes)}` : ""}</td>
            <td>${one.models.map((model) => `${model.model}@${model.version}${model.state === "ready" ? "" : ` (${model.state})`}`).join(", ") || "–"}</td>
          </tr>`,
        )}
      </tbody>
    </table>
  </div>
</section>`;

const Changes = ({ changes }) => html`<section class="card">
  <h2>Loads, evictions, workers</h2>
  ${changes.length === 0 && html`<p class="faint">Nothing has changed since this page looks.</p>`}
  <ul class="changes" tabindex="0" aria-label="What has changed">
    ${changes.map((one) => html`<li key=${`${one.at} ${one.what}`}><time>${clock(one.at)}</time> <b>${one.what}</b> ${one.from || "new"} → ${one.to || "gone"}</li>`)}
  </ul>
</section>`;

export function Watch() {
  const [seen, problem] = useSeen();
  return html`
    <h1 class="hidden">Watch the service</h1>
    <${Trouble} problem=${problem} />
    ${seen && !seen.up && html`<p class="trouble" role="alert">Redis is away: nothing can be queued, and what is queued there is not known.</p>`}
    ${!seen && !problem && html`<p class="faint">Asking …</p>`}
    ${seen && html`<${Numbers} seen=${seen} />`}
    ${seen &&
    html`<div class="plots">
      <${Plot} title="Jobs that wait" lines=${history.lines("queued")} told=${(value) => number(value)} />
      <${Plot} title="Ended and refused, a second" lines=${history.lines("rates")} told=${(value) => number(value, 1)} />
      <${Plot} title="From submit to end" lines=${history.lines("latency")} told=${ms} top=${10} />
      <${Plot} title="Workers' devices busy" lines=${history.lines("busy")} told=${percent} />
      <${Plot} title="Items of a batch" lines=${history.lines("batch")} told=${(value) => number(value, 1)} />
    </div>`}
    ${seen?.up && html`<${Queues} versions=${seen.versions} /><${Workers} workers=${seen.workers} /><${Changes} changes=${history.changes} />`}
  `;
}
