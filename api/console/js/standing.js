// How a job stands: what the view that made it and the list of jobs both tell.

import { Trouble } from "./parts.js";
import { percent } from "./told.js";
import { html } from "./view.js";

const END = ["succeeded", "failed", "canceled"];

export const hasEnded = (job) => END.includes(job?.state);

/** Why it waits, how far it is, why it failed, or which of its items did. */
export function Standing({ job }) {
  return html`
    ${job.waiting_for && html`<p>${job.waiting_for.message}</p>`}
    ${job.progress && !hasEnded(job) && html`<p><progress value=${job.progress.fraction ?? undefined} max="1"></progress> ${percent(job.progress.fraction)} ${job.progress.message ?? ""}</p>`}
    ${job.error && html`<${Trouble} problem=${job.error} />`}
    ${job.errors?.length > 0 && html`<${Trouble} problem=${{ message: "Some of it failed:", errors: job.errors }} />`}
  `;
}
