// Boxes and masks on the image that was sent, and images that were made.

import { Bars } from "../parts.js";
import { Picture, useAddress } from "../fields.js";
import { html, useState } from "../view.js";

const CORNERS = ["xmin", "ymin", "xmax", "ymax"];
const HUES = 47; // degrees from one label's colour to the next: neighbours differ clearly
const colour = (at) => `hsl(${(at * HUES) % 360} 75% 45%)`;
const png = (base64) => `data:image/png;base64,${base64}`;
const score = (value) => (typeof value === "number" ? value.toFixed(2) : "");

function Boxes({ found, file }) {
  const address = useAddress(file);
  const [size, setSize] = useState(null);
  return html`<figure class="picture">
    <div>
      <img src=${address} alt="What was sent" onLoad=${({ target }) => setSize([target.naturalWidth, target.naturalHeight])} />
      ${size &&
      html`<svg viewBox=${`0 0 ${size[0]} ${size[1]}`} role="img" aria-label=${`${found.length} objects`}>
        ${found.map(
          ({ label, box, score: sure }, at) => html`<g>
            <rect x=${box.xmin} y=${box.ymin} width=${box.xmax - box.xmin} height=${box.ymax - box.ymin} fill="none" stroke=${colour(at)} stroke-width=${Math.max(2, size[0] / 200)} />
            <text x=${box.xmin} y=${Math.max(box.ymin - size[0] / 100, size[0] / 28)} fill=${colour(at)} font-size=${size[0] / 28}>${label} ${score(sure)}</text>
          </g>`,
        )}
      </svg>`}
    </div>
    <figcaption>${found.map(({ label, score: sure }) => `${label} ${score(sure)}`).join(", ") || "nothing found"}</figcaption>
  </figure>`;
}

function Masks({ masks, file }) {
  const address = useAddress(file);
  return html`<figure class="picture">
    <div>
      <img src=${address} alt="What was sent" />
      ${masks.map(({ mask }, at) => html`<span class="mask" style=${{ background: colour(at), maskImage: `url("${png(mask)}")` }}></span>`)}
    </div>
    <figcaption>
      ${masks.map(({ label, score: sure }, at) => html`<span class="key"><i style=${{ background: colour(at) }}></i>${label} ${score(sure)}</span>`)}
    </figcaption>
  </figure>`;
}

export const isBase64 = (value) => typeof value === "string" && /^[A-Za-z0-9+/]+={0,2}$/.test(value);

/** null: it is no picture, and says nothing of one. */
export function pictureOf(output, input) {
  const file = input?.image instanceof File ? input.image : null;
  const list = Array.isArray(output) ? output : [];
  if (isBase64(output?.depth)) return html`<figure class="picture"><img src=${png(output.depth)} alt="Depth, from near to far" /></figure>`;
  if (!file) return null;
  if (Array.isArray(output?.masks) && output.masks.every(isBase64))
    return html`<${Masks} file=${file} masks=${output.masks.map((mask, at) => ({ mask, label: `mask ${at + 1}`, score: output.scores?.[at] }))} />`;
  if (list.length > 0 && list.every((one) => isBase64(one?.mask))) return html`<${Masks} file=${file} masks=${list} />`;
  if (list.length > 0 && list.every((one) => CORNERS.every((corner) => typeof one?.box?.[corner] === "number"))) return html`<${Boxes} file=${file} found=${list} />`;
  if (Array.isArray(output?.labels) && typeof output.labels[0]?.score === "number")
    return html`<div class="beside"><${Picture} file=${file} alt="What was sent" /><${Bars} rows=${output.labels} /></div>`;
  return null;
}
