// Small things that several views draw.

import { Component, html, useState } from "./view.js";

/** Draws what is inside it; where that throws, `otherwise` (called with the error), and the rest of the page goes on. */
export class Guard extends Component {
  componentDidCatch(error) {
    this.setState({ error });
  }

  render({ children, otherwise }, { error }) {
    return error ? otherwise(error) : children;
  }
}

/** What went wrong, and where in the input; nothing where all is well. */
export function Trouble({ problem }) {
  if (!problem) return null;
  return html`<div class="trouble" role="alert">
    <p><b>${problem.code ? `${problem.code}: ` : ""}</b>${problem.message}</p>
    ${problem.errors?.length > 0 &&
    html`<ul>
      ${problem.errors.map((fault) => html`<li><code>${fault.pointer || "/"}</code> ${fault.message}</li>`)}
    </ul>`}
  </div>`;
}

export const State = ({ state }) => html`<span class=${`state ${state}`}>${state}</span>`;

/** Text to take away. `whole()` is what is copied: by default what is shown. */
export function Copyable({ text, whole = () => text, label }) {
  const [done, setDone] = useState(false);
  const [problem, setProblem] = useState(null);
  const copy = async () => {
    try {
      await navigator.clipboard.writeText(whole());
    } catch (error) {
      setProblem({ message: `The browser has not copied it (${error.message}).` });
      return;
    }
    setProblem(null);
    setDone(true);
    setTimeout(() => setDone(false), 1500);
  };
  return html`<div class="copyable">
    <pre tabindex="0" aria-label=${label}>${text}</pre>
    ${navigator.clipboard && html`<button type="button" class="quiet" onClick=${copy}>${done ? "Copied" : "Copy"}</button>`}
    <${Trouble} problem=${problem} />
  </div>`;
}

/** Some data as JSON; of what is shown, not of what is copied, long lists of numbers and long texts are cut, and say so. */
export const Json = ({ data, label = "JSON" }) =>
  html`<${Copyable} text=${JSON.stringify(data, shorten, 2)} whole=${() => JSON.stringify(data, null, 2)} label=${label} />`;

function shorten(_, value) {
  if (typeof value === "string" && value.length > 2000) return `${value.slice(0, 200)} … (${value.length} characters)`;
  if (Array.isArray(value) && value.length > 16 && value.every((one) => typeof one === "number"))
    return [...value.slice(0, 8), `… (${value.length} numbers)`];
  return value;
}

/** A score as text: a number that was none in the model's own arithmetic comes as null. */
export const scored = (score) => (typeof score === "number" ? score.toFixed(3) : "–");

/** Shares of the whole, best first. */
export function Bars({ rows }) {
  return html`<table class="bars">
    <caption class="hidden">labels and scores</caption>
    <tbody>
      ${rows.map(
        ({ label, score }) => html`<tr>
          <th scope="row">${label}</th>
          <td class="bar"><span style=${{ width: `${100 * Math.max(0, Math.min(1, score || 0))}%` }}></span></td>
          <td class="number">${scored(score)}</td>
        </tr>`,
      )}
    </tbody>
  </table>`;
}

/** One of a few, side by side. */
export function Choices({ label, all, chosen, onChoose }) {
  return html`<div class="choices" role="group" aria-label=${label}>
    ${all.map(
      (one) =>
        html`<button type="button" aria-pressed=${String(one === chosen)} onClick=${() => onChoose(one)}>${one}</button>`,
    )}
  </div>`;
}
