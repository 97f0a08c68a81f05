/** Loads a module's source while its component is being built. The generated entry calls `load`. */

import "./install.js";
import { handle, names } from "./operations.js";
import { innermost } from "./places.js";
import { drain } from "./promises.js";

export { handle };

const MARK = "loket-build-error: ";

/** Load the author's file, `start` being what does it; `declared` are the operations that `loket.toml` promises. */
export function load(start, declared) {
  try {
    start();
    drain();
    check(declared);
  } catch (error) {
    const type = error instanceof Error ? error.name : "thrown";
    const facts = { type, message: String(error?.message ?? error).slice(0, 2000), ...innermost(error) };
    throw new Error(`${MARK}${JSON.stringify(facts)}`);
  }
}

function check(declared) {
  const missing = declared.filter((name) => !names().includes(name));
  if (missing.length > 0) {
    throw new ReferenceError(`loket.toml promises the operation ${missing.join(", ")}, and no operation(...) has that name`);
  }
  if (names().length === 0) {
    throw new ReferenceError('nothing was made an operation: operation("message", (args) => ...)');
  }
}
