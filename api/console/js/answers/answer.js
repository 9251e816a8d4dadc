// An answer as a person wants it: by its shape, which the tasks of shared/tasks.py give it. What is of no known shape is
// JSON, and all can be seen as JSON.

import { Choices, Guard, Json } from "../parts.js";
import { html, useState } from "../view.js";
import { pictureOf } from "./pictures.js";
import { soundOf } from "./sounds.js";
import { textOf } from "./texts.js";
import { Similarity, Vector, vectorsOf } from "./vectors.js";

/** The outputs of a job, one for each of its inputs. */
function outputsOf(output, count) {
  if (count > 1) {
    if (Array.isArray(output)) return output;
    if (Array.isArray(output?.items)) return output.items;
  }
  return [output];
}

function One({ output, input }) {
  const drawn = pictureOf(output, input) ?? textOf(output, input) ?? soundOf(output);
  if (drawn) return drawn;
  const [vector] = vectorsOf([output]) ?? [];
  return vector ? html`<${Vector} values=${vector} />` : html`<${Json} data=${output} label="Output" />`;
}

function Drawn({ output, inputs }) {
  const outputs = outputsOf(output, inputs.length);
  const vectors = vectorsOf(outputs);
  if (vectors?.length > 1) return html`<${Similarity} vectors=${vectors} inputs=${inputs} />`;
  return outputs.map(
    (one, at) => html`<div class="one" key=${at}>
      ${outputs.length > 1 && html`<h3>Input ${at + 1}</h3>`}
      <${One} output=${one} input=${inputs[at] ?? inputs[0]} />
    </div>`,
  );
}

export function Answer({ output, inputs }) {
  const [way, setWay] = useState("View");
  return html`
    <${Choices} label="How to show it" all=${["View", "JSON"]} chosen=${way} onChoose=${setWay} />
    ${way === "JSON"
      ? html`<${Json} data=${output} label="Output" />`
      : html`<${Guard} otherwise=${() => html`<${Json} data=${output} label="Output" />`}><${Drawn} output=${output} inputs=${inputs} /></${Guard}>`}
  `;
}
