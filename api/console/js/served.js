// Whether the service answers, and which models it serves: looked at in one place, for the header and for the views.

import { usePolling } from "./polling.js";
import { call, Problem } from "./service.js";
import { useEffect, useState } from "./view.js";

const EVERY_MS = 2000;

const same = (one, other) => JSON.stringify(one) === JSON.stringify(other);

/**
 * Looks every few seconds, and at once after `look()`. `state`: "up"; "degraded" without Redis; "down"; "key" where it
 * does not take `secret`; empty before the first answer. `models`: GET /v1/models with its `etag`, as last told, and the
 * same object as long as that is the same; null before. `problem`: why it was not told now.
 */
export function useService(secret) {
  const [state, setState] = useState("");
  const [models, setModels] = useState(null);
  const [problem, setProblem] = useState(null);
  const [looks, setLooks] = useState(0);
  const once = async (signal) => {
    let found = "down";
    try {
      const { data: health } = await call("GET", "health", { signal }); // needs no key
      found = health.status === "ok" ? "up" : "degraded";
      const { data, etag } = await call("GET", "v1/models", { signal });
      setModels((before) => (same(before, { ...data, etag }) ? before : { ...data, etag }));
      setProblem(null);
    } catch (error) {
      if (!(error instanceof Problem)) throw error;
      found = { 401: "key", 403: found, 503: "degraded" }[error.status] ?? "down"; // 403: it may do other things
      setProblem(error);
    }
    setState(found);
  };
  useEffect(() => setModels(null), [secret]); // another key may see others
  usePolling(once, EVERY_MS, [secret, looks]);
  return { state, models, problem, look: () => setLooks((count) => count + 1) };
}
