/** A value that JSON can say. Whole numbers beyond 2^53 are `bigint`s. */
export type Json = null | boolean | number | bigint | string | Json[] | { [key: string]: Json };

/** The arguments of an operation, or of a call. */
export type Arguments = { [key: string]: any };

/**
 * The counter, or another module, said no. Throw it yourself to answer with a refusal. `code` is stable and dotted
 * (`grant.missing`), `message` a sentence for a person, `remedy` the line or the command that would allow it, or null.
 */
export class Refused extends Error {
  constructor(code: string, message: string, remedy?: string | null);
  readonly code: string;
  readonly remedy: string | null;
}

/**
 * Ask the counter for a capability: `call("kv.get", { key: "visits" })` gives `{ found: true, value: 3 }`.
 *
 * Throws `Refused` where the counter says no or the call did not work, `TypeError` or `RangeError` for what JSON cannot
 * say, and `Error` while the module is being built.
 */
export function call<Answer = any>(capability: string, args?: Arguments): Answer;

/**
 * Make a function an operation of the module. It takes the object of all arguments, returns a JSON value or a promise
 * of one, and throws `Refused` to say no. Throws `TypeError` for what is no function, `Error` for a name that is taken.
 */
export function operation<Args extends Arguments = Arguments, Result = unknown>(
  name: string,
  fn: (args: Args) => Result,
): (args: Args) => Result;

/** A memory as `brain.search` answers it. */
export type Memory = {
  id: number;
  text: string;
  kind: "episode" | "fact" | "correction" | "lesson" | "procedure";
  subject?: string | null;
  key?: string | null;
  speaker?: string | null;
  score: number;
  /** Who stored it, written by the host: `host:lessons` for what Loket drew from an error. */
  source: string;
  run: string;
  labels: string[];
  created: string;
  happened?: string;
  replaced_by?: number | null;
  closed?: string | null;
};

/**
 * Recall lessons about a capability (`lessons("net.fetch")`, the newest first) or a topic in words (best first): what
 * was tried, why it did not work (`Because: `) and what to do instead (`Instead: `). At most `limit` (5).
 *
 * Needs a grant for `brain.search`. Throws `Refused` as `call` does.
 */
export function lessons(about: string, limit?: number): Memory[];
