// Inputs of a form, one for each kind that js/schema.js tells apart.

import { acceptOf } from "./schema.js";
import { html, useEffect, useState } from "./view.js";

let ids = 0;

function useId() {
  return useState(() => `field-${++ids}`)[0];
}

/** An address of a file's bytes that lasts as long as it is shown. */
export function useAddress(file) {
  const [address, setAddress] = useState("");
  useEffect(() => {
    if (!file) return undefined;
    const made = URL.createObjectURL(file);
    setAddress(made);
    return () => URL.revokeObjectURL(made);
  }, [file]);
  return file ? address : "";
}

export function Picture({ file, alt = "" }) {
  const address = useAddress(file);
  return address && html`<img class="thumb" src=${address} alt=${alt} />`;
}

function FileField({ id, field, value, onValue, onFiles }) {
  const [over, setOver] = useState(false);
  const take = (files) => {
    if (files.length > 1 && onFiles) onFiles([...files]);
    else if (files.length > 0) onValue(files[0]);
  };
  const shown = [value ?? []].flat();
  const drop = (event) => {
    event.preventDefault();
    setOver(false);
    take(event.dataTransfer.files);
  };
  return html`<label
    class=${`drop ${over ? "over" : ""}`}
    for=${id}
    onDragOver=${(event) => (event.preventDefault(), setOver(true))}
    onDragLeave=${() => setOver(false)}
    onDrop=${drop}
  >
    <input
      id=${id}
      type="file"
      accept=${acceptOf(field.name)}
      multiple=${Boolean(onFiles)}
      onChange=${(event) => take(event.target.files)}
    />
    ${shown.length > 0 ? shown.map((file) => html`${file.type.startsWith("image/") && html`<${Picture} file=${file} />`}<span>${file.name}</span>`) : html`<span>Drop ${onFiles ? "files" : "a file"} here, or choose</span>`}
  </label>`;
}

/**
 * One field, with its label. `value` is text, a number, a boolean or a File; of the kind json it is the text that was
 * typed. `onFiles`: several files were dropped at once.
 */
export function Field({ field, value, onValue, onFiles }) {
  const id = useId();
  const typed = (event) => onValue(event.target.value);
  const label = html`<span class="label">${field.name}${field.required ? "" : html` <small>optional</small>`}</span>`;
  const help = field.description && html`<small id=${`${id}-help`} class="help">${field.description}</small>`;
  const described = field.description ? `${id}-help` : undefined;
  if (field.kind === "switch")
    return html`<div class="field">
      <label for=${id}>${label}</label>
      <select id=${id} aria-describedby=${described} value=${value === undefined ? "" : String(value)} onChange=${(event) => onValue({ "": undefined, true: true, false: false }[event.target.value])}>
        <option value="">as it is</option>
        <option value="true">true</option>
        <option value="false">false</option>
      </select>
      ${help}
    </div>`;
  if (field.kind === "choice")
    return html`<div class="field">
      <label for=${id}>${label}</label>
      <select id=${id} aria-describedby=${described} value=${value ?? ""} onChange=${(event) => onValue(field.choices.find((one) => String(one) === event.target.value))}>
        ${!field.required && html`<option value=""></option>`}
        ${field.choices.map((one) => html`<option value=${one}>${one}</option>`)}
      </select>
      ${help}
    </div>`;
  if (field.kind === "file" || field.kind === "files")
    return html`<div class="field">
      <label for=${id}>${label}</label>
      <${FileField} id=${id} field=${field} value=${value} onValue=${field.kind === "files" ? (file) => onValue([file]) : onValue} onFiles=${field.kind === "files" ? onValue : onFiles} />
    </div>`;
  const control =
    field.kind === "number"
      ? html`<input id=${id} type="number" step="any" aria-describedby=${described} value=${value ?? ""} onInput=${(event) => onValue(event.target.value === "" ? undefined : Number(event.target.value))} />`
      : html`<textarea
          id=${id}
          rows=${field.kind === "json" ? 4 : 3}
          class=${field.kind === "json" ? "code" : ""}
          aria-describedby=${described}
          spellcheck=${field.kind !== "json"}
          value=${value ?? ""}
          onInput=${typed}
        ></textarea>`;
  return html`<div class="field"><label for=${id}>${label}</label>${control}${help}</div>`;
}
