// Where a job's time went.

import { between, ms } from "./told.js";
import { html } from "./view.js";

/** `[{ name, ms, told }]`, in the order of time; what is not known yet is left out. */
export function steps(job) {
  const { queue_ms: queue, prepare_ms: prepare, predict_ms: predict, batch_size: size } = job.timing ?? {};
  const all = between(job.created_at, job.finished_at);
  const found = [];
  if (queue !== null && queue !== undefined) {
    const prepared = Math.min(prepare ?? 0, queue);
    found.push({ name: "queue", ms: queue - prepared, told: "until its batch began, without its preparation" });
    found.push({ name: "prepare", ms: prepared, told: "decode, check, tokenise" });
  }
  if (predict !== null && predict !== undefined) {
    found.push({ name: "predict", ms: predict, told: size ? `in a batch of ${size}` : "" });
    if (all !== undefined) found.push({ name: "finish", ms: Math.max(0, all - (queue ?? 0) - predict), told: "join, write, tell" });
  }
  return found;
}

export function Timeline({ job }) {
  const found = steps(job);
  const total = found.reduce((sum, step) => sum + step.ms, 0);
  const all = between(job.created_at, job.finished_at);
  return html`<section class="timeline" aria-label="Where the time went">
    <div class="track" aria-hidden="true">
      ${found.map((step) => html`<span class=${step.name} style=${{ flexGrow: Math.max(step.ms / (total || 1), 0.004) }}></span>`)}
    </div>
    <dl>
      ${found.map((step) => html`<div><dt><i class=${step.name}></i>${step.name}</dt><dd>${ms(step.ms)} <small>${step.told}</small></dd></div>`)}
      ${all !== undefined && html`<div><dt>in all</dt><dd>${ms(all)}</dd></div>`}
      ${job.timing?.worker && html`<div><dt>worker</dt><dd>${job.timing.worker}</dd></div>`}
      ${job.attempt > 1 && html`<div><dt>attempt</dt><dd>${job.attempt}</dd></div>`}
    </dl>
  </section>`;
}
