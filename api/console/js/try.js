// Ask a model, and look at what it says.

import { Answer } from "./answers/answer.js";
import { Field } from "./fields.js";
import { Choices, Copyable, Json, State, Trouble } from "./parts.js";
import { anyJson, collected, Unreadable, withBytes } from "./request.js";
import { fieldsOf, inputOf } from "./schema.js";
import { address, call, key, listen, piece, Problem } from "./service.js";
import { LANGUAGES, snippet } from "./snippets.js";
import { hasEnded, Standing } from "./standing.js";
import { Timeline } from "./timeline.js";
import { percent } from "./told.js";
import { html, useEffect, useRef, useState } from "./view.js";

/** The model's own example, as values of its fields. */
function exampleOf(model, fields) {
  const example = Array.isArray(model.example) ? model.example[0] : model.example;
  if (fields === null) return { "": example === null || example === undefined ? "" : JSON.stringify(example, null, 2) };
  const known = fields.filter(({ name, kind }) => example?.[name] !== undefined && kind !== "file" && kind !== "files");
  const typed = (value, kind) => (kind === "json" || typeof value === "object" ? JSON.stringify(value, null, 2) : value);
  return Object.fromEntries(known.map(({ name, kind }) => [name, typed(example[name], kind)]));
}

/** Waits for a job's end; `onJob` is told of each step. A stream that breaks is taken up again. Throws Problem. */
async function follow(id, onJob, signal) {
  for (;;) {
    let job;
    try {
      await listen(`v1/jobs/${piece(id)}/events`, (_, told) => onJob((job = told)), signal);
    } catch (problem) {
      if (problem.name === "AbortError" || (problem.status >= 400 && problem.status < 500)) throw problem;
    }
    if (hasEnded(job)) return job;
    await new Promise((done) => setTimeout(done, 1000));
    signal.throwIfAborted();
  }
}

async function whole(job) {
  if (job.output !== null || !job.output_url) return job;
  const { data } = await call("GET", `v1/jobs/${piece(job.id)}/output`);
  return { ...job, output: data };
}

function Items({ fields, many, items, onItems }) {
  const change = (at, name, value) => onItems(items.map((item, number) => (number === at ? { ...item, [name]: value } : item)));
  const dropped = (at, name, found) =>
    onItems([...items.slice(0, at), ...found.map((file) => ({ ...items[at], [name]: file })), ...items.slice(at + 1)]);
  const shown = fields ?? [{ name: "", kind: "json", required: true, description: "any JSON" }];
  return html`${items.map(
      (item, at) => html`<fieldset key=${at} class="item">
        <legend>${items.length > 1 ? `Input ${at + 1}` : "Input"}</legend>
        ${shown.map(
          (field) => html`<${Field}
            key=${field.name}
            field=${field.name === "" ? { ...field, name: "input" } : field}
            value=${item[field.name]}
            onValue=${(value) => change(at, field.name, value)}
            onFiles=${many && field.kind === "file" ? (found) => dropped(at, field.name, found) : undefined}
          />`,
        )}
        ${items.length > 1 && html`<button type="button" class="quiet" onClick=${() => onItems(items.filter((_, number) => number !== at))}>Remove input ${at + 1}</button>`}
      </fieldset>`,
    )}
    ${many && html`<button type="button" class="quiet" onClick=${() => onItems([...items, {}])}>Add another input</button>`}`;
}

function Result({ job, sent, refusal, onCancel }) {
  const ended = hasEnded(job);
  return html`
    <p class="row">
      <${State} state=${job.state} />
      <a href=${`#/jobs/${job.id}`}><code>${job.id}</code></a>
      ${job.version && html`<span>${job.model}@${job.version}</span>`}
      ${!ended && html`<button type="button" class="quiet" onClick=${onCancel}>Cancel</button>`}
    </p>
    ${!ended && html`<${Trouble} problem=${refusal} />`}
    <${Standing} job=${job} />
    ${job.state === "succeeded" && (job.output !== null || !job.output_url) && html`<${Answer} output=${job.output} inputs=${sent} />`}
    ${ended && html`<${Timeline} job=${job} />`}
  `;
}

function Snippets({ request }) {
  const [language, setLanguage] = useState(LANGUAGES[0]);
  const text = snippet(language, address("inference"), request, key.get() !== "");
  return html`<section aria-label="The same call in code">
    <${Choices} label="Language" all=${LANGUAGES} chosen=${language} onChoose=${setLanguage} />
    <${Copyable} text=${text} label=${`The same call by ${language}`} />
  </section>`;
}

const OF_WORKERS = ["example", "input_schema", "output_schema", "parameters_schema"];

/** The card as it is now; what only a worker can tell stays as the last one has told it. */
function useKnown(card) {
  const told = useRef({});
  for (const name of OF_WORKERS) told.current[name] = card[name] ?? told.current[name] ?? null;
  return { ...card, ...told.current };
}

function Form({ card }) {
  const model = useKnown(card);
  const { fields, many } = inputOf(model.input_schema);
  const options = fieldsOf(model.parameters_schema) ?? [];
  const [pinned, setVersion] = useState("");
  const version = model.versions.some((one) => one.version === pinned) ? pinned : "";
  const form = fields === null ? "json" : "fields";
  const [edited, setEdited] = useState({}); // by form; until then it holds the example
  const items = edited[form] ?? [exampleOf(model, fields)];
  const setItems = (changed) => setEdited({ ...edited, [form]: changed });
  const [parameters, setParameters] = useState({});
  const [job, setJob] = useState(null);
  const [sent, setSent] = useState([]);
  const [problem, setProblem] = useState(null);
  const [refusal, setRefusal] = useState(null); // of Cancel
  const [busy, setBusy] = useState(false);
  const running = useRef(null);
  useEffect(() => () => running.current?.abort(), []);

  const read = () => {
    const all = fields === null ? items.map((item) => anyJson(item[""] ?? "")) : items.map((item) => collected(fields, item));
    const chosen = collected(options, parameters);
    return { all, data: many && all.length > 1 ? all : all[0], chosen: Object.keys(chosen).length > 0 ? chosen : undefined };
  };
  const request = () => {
    const { data, chosen } = read();
    return { model_type: model.id, ...(version && { version }), data, ...(chosen && { parameters: chosen }) };
  };

  const send = async (event) => {
    event.preventDefault();
    running.current?.abort();
    const mine = (running.current = new AbortController());
    setBusy(true);
    setProblem(null);
    setRefusal(null);
    setJob(null);
    try {
      const { all, data, chosen } = read();
      setSent(all);
      const body = { model: model.id, ...(version && { version }), input: await withBytes(data), ...(chosen && { parameters: chosen }) };
      const { data: ticket } = await call("POST", "v1/jobs", { body, headers: { Prefer: "respond-async" }, signal: mine.signal });
      setJob(await whole(await follow(ticket.id, setJob, mine.signal)));
    } catch (error) {
      if (error.name === "AbortError") return;
      if (!(error instanceof Problem) && !(error instanceof Unreadable)) throw error;
      setProblem(error);
    } finally {
      if (running.current === mine) setBusy(false);
    }
  };
  const cancel = () => call("DELETE", `v1/jobs/${piece(job.id)}`).then(() => setRefusal(null), setRefusal);

  let asked = null;
  try {
    asked = request();
  } catch (error) {
    if (!(error instanceof Unreadable)) throw error;
  }
  const hurry = (event) => {
    if (event.key === "Enter" && (event.ctrlKey || event.metaKey) && !busy) event.currentTarget.requestSubmit();
  };
  return html`
    <form class="card" onSubmit=${send} onKeyDown=${hurry}>
      <div class="field">
        <label for="version">Version</label>
        <select id="version" value=${version} onChange=${(event) => setVersion(event.target.value)}>
          <option value="">by the traffic's shares</option>
          ${model.versions.map((one) => html`<option value=${one.version}>${one.version} (${percent(one.traffic)}, ${one.ready} ready)</option>`)}
        </select>
      </div>
      <${Items} fields=${fields} many=${many} items=${items} onItems=${setItems} />
      ${options.length > 0 &&
      html`<details>
        <summary>Parameters</summary>
        ${options.map((field) => html`<${Field} key=${field.name} field=${field} value=${parameters[field.name]} onValue=${(value) => setParameters({ ...parameters, [field.name]: value })} />`)}
      </details>`}
      <button type="submit" class="primary" disabled=${busy} title="Ctrl+Enter" aria-keyshortcuts="Control+Enter Meta+Enter">${busy ? "Running …" : "Run"}</button>
    </form>
    <section class="card answer" aria-label="Answer" aria-live="polite" aria-busy=${String(busy)}>
      <h2>Answer</h2>
      <${Trouble} problem=${problem} />
      ${!job && !problem && html`<p class="faint">The answer will stand here.</p>`}
      ${job && html`<${Result} job=${job} sent=${sent} refusal=${refusal} onCancel=${cancel} />`}
    </section>
    <section class="card">
      <h2>In code</h2>
      ${asked ? html`<${Snippets} request=${asked} />` : html`<p class="faint">The input is not JSON yet.</p>`}
    </section>
    <details class="card">
      <summary>What it takes and gives</summary>
      <h3>Input</h3>
      <${Json} data=${model.input_schema} label="Input schema" />
      <h3>Output</h3>
      <${Json} data=${model.output_schema} label="Output schema" />
    </details>
  `;
}

export function Try({ rest, service: { models: served, problem } }) {
  const models = served?.data;
  const chosen = rest[0] ?? models?.[0]?.id;
  const model = models?.find((one) => one.id === chosen);
  return html`
    <h1 class="hidden">Try a model</h1>
    <${Trouble} problem=${problem} />
    ${models?.length === 0 && html`<p>No model is served. <code>PUT /v1/models/NAME</code>, or <code>models.yaml</code>, makes one.</p>`}
    ${models?.length > 0 && !model && html`<p class="trouble" role="alert">No model ${chosen} is served.</p>`}
    <div class="try">
      <div class="card pick">
        <label for="model">Model</label>
        <select id="model" value=${model?.id ?? ""} disabled=${!models} onChange=${(event) => (location.hash = `#/try/${encodeURIComponent(event.target.value)}`)}>
          ${!model && html`<option value=""></option>`}
          ${(models ?? []).map((one) => html`<option value=${one.id}>${one.id}</option>`)}
        </select>
        <p>${model ? html`${model.task ?? "a handler of its own"} · ${model.ready > 0 ? `${model.ready} ready` : "no worker has it: jobs wait"}${model.paused ? " · paused" : ""}` : " "}</p>
      </div>
      ${model && html`<${Form} key=${model.id} card=${model} />`}
    </div>
  `;
}
