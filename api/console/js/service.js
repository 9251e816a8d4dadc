// Calls of the service that this page came from.

const ROOT = new URL("../../", import.meta.url);
const KEY = "ml-service.key";

/** The API key, for as long as the tab is open; empty: none. */
export const key = {
  get: () => sessionStorage.getItem(KEY) ?? "",
  set: (value) => (value ? sessionStorage.setItem(KEY, value) : sessionStorage.removeItem(KEY)),
};

/** The address of a path of the service, as others may call it. */
export const address = (path) => new URL(path, ROOT).href;

/** What went wrong: the problem document (RFC 9457) of the service, or that it does not answer (status 0). */
export class Problem extends Error {
  constructor(status, told = {}) {
    super(told.detail ?? told.error?.message ?? (status ? `HTTP ${status}` : "The service does not answer."));
    this.status = status;
    this.code = told.code ?? told.error?.code ?? "";
    this.errors = told.errors ?? [];
  }
}

function headersOf(more = {}) {
  const secret = key.get();
  return { ...more, ...(secret ? { Authorization: `Bearer ${secret}` } : {}) };
}

async function ask(path, options) {
  let answer;
  try {
    answer = await fetch(address(path), { cache: "no-store", ...options, headers: headersOf(options.headers) });
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new Problem(0);
  }
  if (!answer.ok) throw new Problem(answer.status, await answer.json().catch(() => ({})));
  return answer;
}

/** A piece of a path: no part of it is more than a name. */
export const piece = encodeURIComponent;

/** JSON of the answer, with its ETag: `{ data, etag }`. Throws Problem. */
export async function call(method, path, { body, headers = {}, signal } = {}) {
  const sent = body === undefined ? {} : { body: JSON.stringify(body), headers: { "Content-Type": "application/json" } };
  const answer = await ask(path, { method, signal, ...sent, headers: { ...headers, ...sent.headers } });
  const etag = (answer.headers.get("ETag") ?? "").replace(/^W\//, ""); // a proxy that compresses makes it a weak one
  try {
    const text = await answer.text();
    return { data: text ? JSON.parse(text) : null, etag };
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new Problem(0); // broken off
  }
}

/**
 * Server-Sent Events until the stream ends: `on(name, data)` with each one's JSON. (EventSource could send no key.)
 * Throws Problem; AbortError when `signal` says so.
 */
export async function listen(path, on, signal) {
  const answer = await ask(path, { method: "GET", signal, headers: { Accept: "text/event-stream" } });
  const reader = answer.body.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "";
  for (;;) {
    let read;
    try {
      read = await reader.read();
    } catch (error) {
      if (error.name === "AbortError") throw error;
      throw new Problem(0);
    }
    if (read.done) return;
    const parts = (rest + read.value).split("\n\n");
    rest = parts.pop();
    for (const part of parts) {
      const fields = Object.fromEntries(part.split("\n").map((line) => line.split(/: (.*)/s, 2)));
      if (fields.data) on(fields.event ?? "message", JSON.parse(fields.data));
    }
  }
}
