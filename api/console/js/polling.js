// Looking again and again.

import { useEffect } from "./view.js";

/**
 * Calls `look(signal)` now, and `everyMs` after each look has ended, until one says true or the view is gone; from the
 * start where one of `dependencies` has changed. One look at a time, however long it takes; an AbortError ends it.
 */
export function usePolling(look, everyMs, dependencies) {
  useEffect(() => {
    let timer;
    const ended = new AbortController();
    const again = async () => {
      let done;
      try {
        done = await look(ended.signal);
      } catch (error) {
        if (error.name === "AbortError") return;
        throw error;
      }
      if (!done && !ended.signal.aborted) timer = setTimeout(again, everyMs);
    };
    again();
    return () => {
      ended.abort();
      clearTimeout(timer);
    };
  }, dependencies);
}
