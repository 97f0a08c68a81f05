/** Lessons: what went wrong before, recalled before it is tried again. */

import { call } from "./counter.js";

const CAPABILITY = /^[a-z][a-z0-9_]*(\.[a-z0-9_]+)+(@\d+)?$/;

/** Characters of a topic that are looked for. */
const QUERY = 4000;

/**
 * Recall lessons about a capability (`lessons("net.fetch")`, the newest first) or a topic in words (best first).
 *
 * Each is a memory as `brain.search` answers it: its `text` says what was tried, why it did not work (a line that
 * begins with `Because: `) and what to do instead (`Instead: `). Lessons that Loket drew from an error, and has not
 * found to hold no longer, have the `source` `host:lessons`; `procedure` is the kind of several drawn together.
 *
 * Needs a grant for `brain.search`. Throws `Refused` as `call` does.
 */
export function lessons(about, limit = 5) {
  const what = CAPABILITY.test(about) ? { query: "", subject: about } : { query: [...about].slice(0, QUERY).join("") };
  return call("brain.search", { ...what, kinds: ["lesson", "procedure"], limit }).memories;
}
