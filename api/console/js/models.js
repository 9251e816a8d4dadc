// Models and versions: who has them, what they take of memory, and how the traffic is shared.

import { State, Trouble } from "./parts.js";
import { call, piece } from "./service.js";
import { bytes, day, percent } from "./told.js";
import { html, useEffect, useState } from "./view.js";

const memoryOf = (memory = {}) =>
  Object.entries(memory).map(([name, size]) => `${bytes(size)} ${name.replace(/_bytes$/, "")}`).join(", ") || "–";

function Versions({ model }) {
  return html`<div class="scroll" tabindex="0" role="region" aria-label=${`Versions of ${model.id}`}>
    <table>
      <thead><tr><th scope="col">version</th><th scope="col" class="number">traffic</th><th scope="col">worker</th><th scope="col">state</th><th scope="col">device</th><th scope="col" class="number">memory</th></tr></thead>
      <tbody>
        ${model.versions.flatMap((version) =>
          (version.workers.length ? version.workers : [{}]).map(
            (worker, at) => html`<tr key=${`${version.version} ${worker.worker}`}>
              <th scope="row">${at === 0 ? version.version : ""}</th>
              <td class="number">${at === 0 ? percent(version.traffic) : ""}</td>
              <td>${worker.worker ?? "–"}</td>
              <td>${worker.state ? html`<${State} state=${worker.state} />` : "–"} ${worker.error && html`<small>${worker.error}</small>`}</td>
              <td>${worker.device ?? "–"}</td>
              <td class="number">${memoryOf(worker.memory)}</td>
            </tr>`,
          ),
        )}
      </tbody>
    </table>
  </div>`;
}

function Traffic({ model, etag, onChanged }) {
  const now = Object.fromEntries(model.versions.map((one) => [one.version, 100 * one.traffic]));
  const [edited, setEdited] = useState(null); // the shares, and the ETag of what they were made from
  const [problem, setProblem] = useState(null);
  const shown = Object.fromEntries(model.versions.map(({ version }) => [version, (edited?.shares ?? now)[version] ?? 0]));
  const total = Object.values(shown).reduce((sum, one) => sum + one, 0);
  const save = async (event) => {
    event.preventDefault();
    try {
      await call("PUT", `v1/models/${piece(model.id)}/traffic`, { body: { traffic: shown }, headers: { "If-Match": edited.etag } });
      setEdited(null);
      setProblem(null);
      onChanged();
    } catch (error) {
      setProblem(error);
    }
  };
  return html`<form class="traffic" onSubmit=${save}>
    ${model.versions.map(
      (one) => html`<div key=${one.version}>
        <label for=${`share-${model.id}-${one.version}`}>${one.version}</label>
        <input id=${`share-${model.id}-${one.version}`} type="range" min="0" max="100" step="any" value=${shown[one.version]} onInput=${(event) => setEdited({ shares: { ...shown, [one.version]: Number(event.target.value) }, etag: edited?.etag ?? etag })} />
        <output>${total > 0 ? percent(shown[one.version] / total) : "–"}</output>
      </div>`,
    )}
    <button type="submit" disabled=${edited === null || total <= 0}>Share the traffic so</button>
    ${edited !== null && html`<button type="button" class="quiet" onClick=${() => (setEdited(null), setProblem(null))}>As it was</button>`}
    <${Trouble} problem=${problem} />
  </form>`;
}

const onItsWay = ({ state, ready, workers, versions, failures }) =>
  `A change is on its way (${state}): ${ready} of ${workers} workers have ${versions.join(", ")}. ` +
  failures.map((one) => `${one.worker}: ${one.error}`).join("; ");

function Model({ model, etag, onChanged }) {
  const [problem, setProblem] = useState(null);
  const [canceled, setCanceled] = useState(null); // by a purge
  const name = piece(model.id);
  const act = (path) => async () => {
    try {
      const { data } = await call("POST", `v1/models/${name}/${path}`);
      setCanceled(data.canceled ?? null);
      setProblem(null);
      onChanged();
    } catch (error) {
      setProblem(error);
    }
  };
  const purge = () => confirm(`Cancel all jobs of ${model.id} that have not started?`) && act("purge")();
  return html`<section class="card" id=${model.id} aria-label=${model.id}>
    <h2>${model.id} <small>${model.task ?? "a handler of its own"}</small></h2>
    ${model.paused && html`<p>Paused since ${day(model.paused_since)}: its jobs wait.</p>`}
    ${model.rollout && html`<p>${onItsWay(model.rollout)}</p>`}
    <${Versions} model=${model} />
    ${model.versions.length > 1 && html`<${Traffic} model=${model} etag=${etag} onChanged=${onChanged} />`}
    <p class="row">
      <a class="button" href=${`#/try/${name}`}>Try it</a>
      <button type="button" onClick=${act(model.paused ? "resume" : "pause")}>${model.paused ? "Resume" : "Pause"}</button>
      <button type="button" onClick=${purge}>Purge</button>
      ${model.rollout && html`<button type="button" onClick=${act("rollback")}>Roll back</button>`}
    </p>
    ${canceled !== null && html`<p role="status">Canceled jobs: ${canceled}.</p>`}
    <${Trouble} problem=${problem} />
  </section>`;
}

/** A model that nobody can call yet. */
function Coming({ rollout, onChanged }) {
  const [problem, setProblem] = useState(null);
  const back = () => call("POST", `v1/models/${piece(rollout.model)}/rollback`).then(onChanged, setProblem);
  return html`<section class="card" aria-label=${rollout.model}>
    <h2>${rollout.model} <small>new</small></h2>
    <p>${onItsWay(rollout)}</p>
    <button type="button" onClick=${back}>Roll back</button>
    <${Trouble} problem=${problem} />
  </section>`;
}

export function Models({ rest, service: { models: read, problem, look } }) {
  const coming = (read?.rollouts ?? []).filter((one) => !read.data.some((model) => model.id === one.model));
  useEffect(() => {
    if (rest[0] && read) document.getElementById(rest[0])?.scrollIntoView();
  }, [rest[0], read !== null]);
  return html`
    <h1 class="hidden">Models</h1>
    <${Trouble} problem=${problem} />
    ${!read && !problem && html`<p class="faint">Asking …</p>`}
    ${read?.data.length === 0 && html`<p class="faint">No model is served.</p>`}
    ${coming.map((one) => html`<${Coming} key=${one.model} rollout=${one} onChanged=${look} />`)}
    ${read?.data.map((model) => html`<${Model} key=${model.id} model=${model} etag=${read.etag} onChanged=${look} />`)}
  `;
}
