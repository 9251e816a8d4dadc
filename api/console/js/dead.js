// Dead letters: messages that nobody could work on, to be looked at, retried or dropped.

import { usePages } from "./pages.js";
import { Json, Trouble } from "./parts.js";
import { call, piece, Problem } from "./service.js";
import { bytes, day, labels } from "./told.js";
import { html, useEffect, useRef, useState } from "./view.js";

const REASONS = ["attempts_exhausted", "rejected", "unparsable"];

/** A new job of each. What is refused stays, and is told; the others are still tried, unless the service does not answer. */
async function retry(letters) {
  const done = { made: [], refused: [], problem: null };
  for (const { id } of letters) {
    try {
      const { data } = await call("POST", `v1/dead/${piece(id)}/retry`);
      done.made.push(data.id);
    } catch (problem) {
      if (!(problem instanceof Problem)) throw problem;
      if (problem.status !== 404 && problem.status !== 409) return { ...done, problem };
      done.refused.push({ pointer: id, message: problem.message });
    }
  }
  return done;
}

/** What retries have made, and what they have not. */
const Done = ({ made, refused, problem }) => html`
  <${Trouble} problem=${problem} />
  ${made.length > 0 && html`<p role="status">Retried as ${made.map((id, at) => html`${at > 0 && ", "}<a href=${`#/jobs/${id}`}><code>${id}</code></a>`)}.</p>`}
  ${refused.length > 0 && html`<${Trouble} problem=${{ message: "Not retried:", errors: refused }} />`}
`;

function Letter({ id, onChanged }) {
  const [letter, setLetter] = useState(null);
  const [problem, setProblem] = useState(null);
  const place = useRef(null);
  useEffect(() => {
    place.current.focus(); // it stands below the list
    call("GET", `v1/dead/${piece(id)}`).then(({ data }) => setLetter(data), setProblem);
  }, [id]);
  const act = (method, path) => () => call(method, path).then(onChanged, setProblem);
  return html`<section ref=${place} class="card" tabindex="-1" aria-label="Dead letter">
    <h2><code>${id}</code></h2>
    <${Trouble} problem=${problem} />
    ${letter &&
    html`<p>${letter.reason}${letter.obstacle ? `; it cannot be retried: ${letter.obstacle}` : ""}</p>
      <p class="row">
        <button type="button" disabled=${letter.obstacle !== null} onClick=${act("POST", `v1/dead/${piece(id)}/retry`)}>Retry</button>
        <button type="button" onClick=${() => confirm("Drop it for ever?") && act("DELETE", `v1/dead/${piece(id)}`)()}>Drop</button>
        ${letter.job_id && html`<a href=${`#/jobs/${letter.job_id}`}>Its job</a>`}
      </p>
      <${Json} data=${letter} label="The letter" />`}
  </section>`;
}

export function Dead({ rest, up }) {
  const [asked, setAsked] = useState({ reason: "", model: "", label: "" });
  const { pages, problem, look, more } = usePages("v1/dead", "after", asked, [up]);
  const [done, setDone] = useState(null);
  const [busy, setBusy] = useState(false);
  const letters = pages.flatMap((one) => one.letters);
  const set = (name) => (event) => setAsked({ ...asked, [name]: event.target.value.trim() });
  const gone = ({ data: job }) => {
    setDone(job && { made: [job.id], refused: [], problem: null });
    location.hash = "#/dead";
    look();
  };
  const all = async () => {
    setBusy(true);
    setDone(await retry(letters));
    setBusy(false);
    look();
  };
  return html`
    <h1 class="hidden">Dead letters</h1>
    <section class="card" aria-label="All dead letters">
      <form class="row" onSubmit=${(event) => event.preventDefault()}>
        <label>Reason <select value=${asked.reason} onChange=${set("reason")}><option value="">any</option>${REASONS.map((one) => html`<option value=${one}>${one}</option>`)}</select></label>
        <label>Model <input defaultValue=${asked.model} onChange=${set("model")} placeholder="name or name@version" /></label>
        <label>Label <input defaultValue=${asked.label} onChange=${set("label")} placeholder="name:value" /></label>
        <button type="button" onClick=${look}>Look again</button>
      </form>
      <${Trouble} problem=${problem} />
      ${done && html`<${Done} ...${done} />`}
      ${letters.length > 0 &&
      html`<div class="scroll" tabindex="0" role="region" aria-label="Dead letters">
        <table>
          <thead><tr><th scope="col">letter</th><th scope="col">since</th><th scope="col">why</th><th scope="col">model</th><th scope="col" class="number">attempts</th><th scope="col" class="number">crashes</th><th scope="col">worker</th><th scope="col" class="number">size</th><th scope="col">labels</th></tr></thead>
          <tbody>
            ${letters.map(
              (one) => html`<tr key=${one.id}>
                <th scope="row"><a href=${`#/dead/${one.id}`}><code>${one.id}</code></a></th>
                <td>${day(one.created_at)}</td>
                <td>${one.reason}</td>
                <td>${[one.model, one.version].filter(Boolean).join("@") || one.queue}</td>
                <td class="number">${one.attempts}</td>
                <td class="number">${one.crashes}</td>
                <td>${one.worker ?? "–"}</td>
                <td class="number">${bytes(one.message_bytes)}</td>
                <td>${labels(one.labels)}</td>
              </tr>`,
            )}
          </tbody>
        </table>
      </div>`}
      ${pages.length > 0 && letters.length === 0 && html`<p class="faint">None${more ? " so far" : ""}. A letter comes here when a job kills its worker again and again, or cannot be read.</p>`}
      <p class="row">
        ${letters.length > 0 && html`<button type="button" disabled=${busy} onClick=${all}>Retry these</button>`}
        ${more && html`<button type="button" onClick=${more}>More</button>`}
      </p>
    </section>
    ${rest[0] && html`<${Letter} key=${rest[0]} id=${rest[0]} onChanged=${gone} />`}
  `;
}
