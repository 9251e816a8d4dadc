// Labels, entities, answers in a text, and text that was written.

import { Bars, scored } from "../parts.js";
import { html } from "../view.js";

const isScored = (one) => typeof one?.label === "string" && typeof one?.score === "number" && !one.box && !one.mask;
const isEntity = (one) => typeof one?.word === "string" && typeof one?.score === "number" && ("entity" in one || "entity_group" in one);

function Entities({ entities, text }) {
  const placed = entities.filter((one) => Number.isInteger(one.start) && Number.isInteger(one.end));
  const sorted = placed.toSorted((a, b) => a.start - b.start);
  const letters = [...text]; // places count characters, JavaScript's strings count halves of some
  const parts = [];
  let at = 0;
  for (const one of sorted) {
    if (one.start < at) continue;
    parts.push(letters.slice(at, one.start).join(""));
    parts.push(
      html`<mark title=${scored(one.score)}>${letters.slice(one.start, one.end).join("")}<small>${one.entity_group ?? one.entity}</small></mark>`,
    );
    at = one.end;
  }
  parts.push(letters.slice(at).join(""));
  return html`<p class="marked">${parts}</p>`;
}

function Span({ output, text }) {
  const letters = [...text];
  return html`<p class="lead">${output.answer} <small>${scored(output.score)}</small></p>
    <p class="marked">
      ${letters.slice(0, output.start).join("")}<mark>${letters.slice(output.start, output.end).join("")}</mark>${letters.slice(output.end).join("")}
    </p>`;
}

const Written = ({ text }) => html`<p class="written">${typeof text === "string" ? text : JSON.stringify(text)}</p>`;

const Chat = ({ messages }) =>
  html`<dl class="chat">${messages.map((one) => html`<div><dt>${String(one?.role)}</dt><dd>${typeof one?.content === "string" ? one.content : JSON.stringify(one?.content)}</dd></div>`)}</dl>`;

/** null: it is no text of a known shape. */
export function textOf(output, input) {
  const list = Array.isArray(output) ? output : null;
  if (Array.isArray(output?.labels) && output.labels.every(isScored)) return html`<${Bars} rows=${output.labels} />`;
  if (Array.isArray(output?.scores) && output.labels?.length === output.scores.length && typeof output.labels[0] === "string")
    return html`<${Bars} rows=${output.labels.map((label, at) => ({ label, score: output.scores[at] }))} />`;
  if (list?.length && list.every(isScored)) return html`<${Bars} rows=${list} />`;
  if (list?.length && list.every(isEntity) && typeof input?.text === "string")
    return html`<${Entities} entities=${list} text=${input.text} />`;
  if (list?.length && list.every((one) => typeof one?.token_str === "string"))
    return html`<${Bars} rows=${list.map((one) => ({ label: one.sequence, score: one.score }))} />`;
  if (list?.length && list.every((one) => one?.generated_text !== undefined && one.generated_text !== null))
    return list.map(({ generated_text: text }) => (Array.isArray(text) ? html`<${Chat} messages=${text} />` : html`<${Written} text=${text} />`));
  if (typeof output?.answer === "string" && Number.isInteger(output.start) && typeof input?.context === "string")
    return html`<${Span} output=${output} text=${input.context} />`;
  if (typeof output?.answer === "string") return html`<${Written} text=${output.answer} />`;
  if (typeof output?.text === "string") return html`<${Written} text=${output.text} />`;
  if (typeof output === "string") return html`<${Written} text=${output} />`;
  return null;
}
