// Embeddings: one as its numbers, several by how alike they are.

import { colourOf, useDark } from "../theme.js";
import { html, useEffect, useRef } from "../view.js";

const MOST = 16_384; // numbers that a canvas is wide enough for

const isVector = (value) => Array.isArray(value) && value.length > 0 && value.length <= MOST && value.every((one) => typeof one === "number");

/** The vectors of outputs that are embeddings; null where they are not. */
export function vectorsOf(outputs) {
  const vectors = outputs.map((output) => output?.embedding ?? output);
  return vectors.every(isVector) ? vectors : null;
}

function cosine(a, b) {
  let [dot, left, right] = [0, 0, 0];
  for (let at = 0; at < a.length; at += 1) {
    dot += a[at] * b[at];
    left += a[at] ** 2;
    right += b[at] ** 2;
  }
  return dot / (Math.sqrt(left * right) || 1);
}

export function Vector({ values }) {
  const canvas = useRef(null);
  const dark = useDark();
  useEffect(() => {
    const draw = canvas.current.getContext("2d");
    const most = values.reduce((found, value) => Math.max(found, Math.abs(value)), 1e-9);
    const [above, below] = ["line-1", "line-2"].map((name) => colourOf(canvas.current, name));
    draw.clearRect(0, 0, values.length, 64);
    values.forEach((value, at) => {
      draw.fillStyle = value < 0 ? below : above;
      const height = (32 * Math.abs(value)) / most;
      draw.fillRect(at, value < 0 ? 32 : 32 - height, 1, height);
    });
  }, [values, dark]);
  const norm = Math.sqrt(values.reduce((sum, value) => sum + value ** 2, 0));
  return html`<figure class="vector">
    <canvas ref=${canvas} width=${values.length} height="64" role="img" aria-label="Its numbers, as bars"></canvas>
    <figcaption>${values.length} numbers of length ${norm.toFixed(3)}: ${values.slice(0, 6).map((value) => value.toFixed(4)).join(", ")} …</figcaption>
  </figure>`;
}

const nameOf = (input, at) => String(input?.text ?? input?.image?.name ?? `input ${at + 1}`).slice(0, 40);

/** How alike each two are: the cosine of their angle, 1 for the same direction. */
export function Similarity({ vectors, inputs }) {
  const names = vectors.map((_, at) => nameOf(inputs[at], at));
  return html`<div class="scroll" tabindex="0" role="region" aria-label="Similarity">
    <table class="matrix">
      <caption>Cosine similarity</caption>
      <thead><tr><td></td>${names.map((name) => html`<th scope="col">${name}</th>`)}</tr></thead>
      <tbody>
        ${vectors.map(
          (row, at) => html`<tr>
            <th scope="row">${names[at]}</th>
            ${vectors.map((column) => {
              const alike = cosine(row, column);
              return html`<td><span class="heat" style=${{ opacity: Math.max(0, alike) }}></span><span>${alike.toFixed(2)}</span></td>`;
            })}
          </tr>`,
        )}
      </tbody>
    </table>
  </div>`;
}
