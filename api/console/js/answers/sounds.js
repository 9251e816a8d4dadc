// What a model has said.

import { useAddress } from "../fields.js";
import { html, useMemo } from "../view.js";
import { isBase64 } from "./pictures.js";

function Sound({ base64 }) {
  const file = useMemo(() => new Blob([Uint8Array.from(atob(base64), (one) => one.charCodeAt(0))], { type: "audio/wav" }), [base64]);
  const address = useAddress(file);
  return address && html`<audio controls src=${address}></audio>`;
}

/** null: it is no recording. */
export const soundOf = (output) =>
  isBase64(output?.audio) && typeof output.sampling_rate === "number" ? html`<${Sound} base64=${output.audio} />` : null;
