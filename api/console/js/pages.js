// Lists that come page by page.

import { call } from "./service.js";
import { useEffect, useRef, useState } from "./view.js";

/**
 * The pages of a list, `path`, that were asked for: the first one by `asked`, a query, and anew whenever that or one of
 * `dependencies` changes or `look()` is called; one more by each `more()`, which is not there where the list has ended.
 * `cursor`: what the query calls the place where a page begins.
 */
export function usePages(path, cursor, asked, dependencies) {
  const [pages, setPages] = useState([]);
  const [problem, setProblem] = useState(null);
  const [looks, setLooks] = useState(0);
  const last = useRef(new AbortController());
  /** Puts a page behind those that `keep` leaves; what was asked before is not waited for any more. */
  const page = async (from, keep) => {
    last.current.abort();
    const { signal } = (last.current = new AbortController());
    const query = new URLSearchParams(Object.entries({ ...asked, [cursor]: from }).filter(([, value]) => value));
    try {
      const { data } = await call("GET", `${path}?${query}`, { signal });
      setPages([...keep, data]);
      setProblem(null);
    } catch (error) {
      if (error.name !== "AbortError") setProblem(error);
    }
  };
  useEffect(() => {
    page("", []);
    return () => last.current.abort();
  }, [...Object.values(asked), looks, ...dependencies]);
  const next = pages.at(-1)?.next;
  return { pages, problem, look: () => setLooks((count) => count + 1), more: next ? () => page(next, pages) : undefined };
}
