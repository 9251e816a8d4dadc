// A key's jobs: the list, and one of them with all that is known of it.

import { Answer } from "./answers/answer.js";
import { Json, State, Trouble } from "./parts.js";
import { usePages } from "./pages.js";
import { usePolling } from "./polling.js";
import { call, piece, Problem } from "./service.js";
import { hasEnded, Standing } from "./standing.js";
import { Timeline } from "./timeline.js";
import { between, day, labels, ms } from "./told.js";
import { html, useState } from "./view.js";

const STATES = ["queued", "running", "succeeded", "failed", "canceled"];
const EVERY_MS = 1000;
const PAGE = 50;

/** Webhooks of a job, looked at again as long as one is due. */
function Deliveries({ id, state }) {
  const [found, setFound] = useState([]);
  const [problem, setProblem] = useState(null);
  const [refusal, setRefusal] = useState(null);
  const [asked, setAsked] = useState(0);
  const look = async (signal) => {
    try {
      const { data } = await call("GET", `v1/jobs/${piece(id)}/deliveries`, { signal });
      setFound(data.data);
      setProblem(null);
      return !data.data.some((one) => one.state === "due");
    } catch (error) {
      if (!(error instanceof Problem)) throw error;
      setProblem(error);
      return error.status >= 400 && error.status < 500;
    }
  };
  usePolling(look, EVERY_MS, [id, state, asked]);
  const again = () => call("POST", `v1/jobs/${piece(id)}/deliveries`).then(() => (setRefusal(null), setAsked(asked + 1)), setRefusal);
  if (found.length === 0) return html`<${Trouble} problem=${problem} />`;
  return html`<section>
    <h3>Webhooks</h3>
    ${found.map(
      (one) => html`<div key=${one.id}>
        <p><${State} state=${one.state} /> ${one.event} to <code>${one.url}</code>${one.next_at ? `, next try ${day(one.next_at)}` : ""}</p>
        <ul>${one.attempts.map((attempt) => html`<li>${day(attempt.at)}: ${attempt.status ?? "no answer"} ${attempt.error ?? ""} (${ms(attempt.ms)})</li>`)}</ul>
      </div>`,
    )}
    <button type="button" onClick=${again}>Deliver again</button>
    <${Trouble} problem=${refusal} />
    <${Trouble} problem=${problem} />
  </section>`;
}

function One({ id }) {
  const [job, setJob] = useState(null);
  const [problem, setProblem] = useState(null);
  const [refusal, setRefusal] = useState(null);
  const look = async (signal) => {
    try {
      const { data } = await call("GET", `v1/jobs/${piece(id)}`, { signal });
      setJob(data);
      setProblem(null);
      return hasEnded(data);
    } catch (error) {
      if (!(error instanceof Problem)) throw error;
      setProblem(error);
      return error.status === 404;
    }
  };
  usePolling(look, EVERY_MS, [id]);
  const cancel = () => call("DELETE", `v1/jobs/${piece(id)}`).then(() => setRefusal(null), setRefusal);
  return html`<section class="card" aria-label="Job">
    <p><a href="#/jobs">All jobs</a></p>
    <h2><code>${id}</code></h2>
    <${Trouble} problem=${problem} />
    ${job &&
    html`
      <p class="row">
        <${State} state=${job.state} /> ${job.model}@${job.version}
        ${job.fallback_for && html`<span>in the place of ${job.fallback_for}</span>`}
        ${!hasEnded(job) && html`<button type="button" onClick=${cancel}>Cancel</button>`}
      </p>
      ${!hasEnded(job) && html`<${Trouble} problem=${refusal} />`}
      <${Standing} job=${job} />
      <${Timeline} job=${job} />
      ${job.letter && html`<p>It lies among the <a href=${`#/dead/${job.letter}`}>dead letters</a>.</p>`}
      ${job.retried_from && html`<p>A retry of <a href=${`#/jobs/${job.retried_from}`}><code>${job.retried_from}</code></a>.</p>`}
      ${job.state === "succeeded" && (job.output_url ? html`<p>The output is large: <code>GET ${job.output_url}</code>.</p>` : html`<${Answer} output=${job.output} inputs=${[{}]} />`)}
      <${Deliveries} id=${id} state=${job.state} />
      <details><summary>All that is known</summary><${Json} data=${job} label="The job" /></details>
    `}
  </section>`;
}

function List({ asked, onAsked, up }) {
  const { pages, problem, look, more } = usePages("v1/jobs", "cursor", { ...asked, limit: PAGE }, [up]);
  const set = (name) => (event) => onAsked({ ...asked, [name]: event.target.value.trim() });
  return html`<section class="card" aria-label="Your jobs">
    <form class="row" onSubmit=${(event) => event.preventDefault()}>
      <label>State <select value=${asked.state} onChange=${set("state")}><option value="">any</option>${STATES.map((one) => html`<option value=${one}>${one}</option>`)}</select></label>
      <label>Model <input defaultValue=${asked.model} onChange=${set("model")} placeholder="name or name@version" /></label>
      <label>Label <input defaultValue=${asked.label} onChange=${set("label")} placeholder="name:value" /></label>
      <button type="button" onClick=${look}>Look again</button>
    </form>
    <${Trouble} problem=${problem} />
    <div class="scroll" tabindex="0" role="region" aria-label="Jobs">
      <table>
        <thead><tr><th scope="col">job</th><th scope="col">state</th><th scope="col">model</th><th scope="col">made</th><th scope="col" class="number">took</th><th scope="col" class="number">batch</th><th scope="col" class="number">attempts</th><th scope="col">labels</th></tr></thead>
        <tbody>
          ${pages.flatMap((one) =>
            one.data.map(
              (job) => html`<tr key=${job.id}>
                <th scope="row"><a href=${`#/jobs/${job.id}`}><code>${job.id.slice(0, 8)}</code></a></th>
                <td><${State} state=${job.state} /></td>
                <td>${job.model}@${job.version}</td>
                <td>${day(job.created_at)}</td>
                <td class="number">${ms(between(job.created_at, job.finished_at))}</td>
                <td class="number">${job.timing.batch_size ?? "–"}</td>
                <td class="number">${job.attempt}</td>
                <td>${labels(job.labels)}</td>
              </tr>`,
            ),
          )}
        </tbody>
      </table>
    </div>
    ${pages.length > 0 && pages.every((one) => one.data.length === 0) && html`<p class="faint">None${more ? " so far" : ""}.</p>`}
    ${more && html`<button type="button" onClick=${more}>More</button>`}
  </section>`;
}

export function Jobs({ rest, up }) {
  const [asked, setAsked] = useState({ state: "", model: "", label: "" }); // outlives a look at one of them
  return html`<h1 class="hidden">Jobs</h1>
    ${rest[0] ? html`<${One} key=${rest[0]} id=${rest[0]} />` : html`<${List} asked=${asked} onAsked=${setAsked} up=${up} />`}`;
}
