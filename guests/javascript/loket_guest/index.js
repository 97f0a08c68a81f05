/**
 * Write a Loket module in JavaScript or TypeScript.
 *
 *     import { Refused, call, operation } from "loket_guest";
 *
 *     operation("greet", ({ name }) => {
 *       const visits = (call("kv.get", { key: `visits/${name}` }).value ?? 0) + 1;
 *       call("kv.set", { key: `visits/${name}`, value: visits });
 *       return { text: `Hello ${name}, visit ${visits}` };
 *     });
 *
 * `call` is the only way out of a module. `Date`, `performance.now`, `Math.random`, `crypto` and `console` work as
 * always; inside an operation they ask `clock.now`, `random.bytes` and `log.write`, which the module's `loket.toml`
 * has to ask for. There are no files, sockets, timers or environment variables.
 *
 * A module is started anew for each run and nothing that it keeps in variables survives. After a wait the run is done
 * again from its start with the answers that the counter gave before, so an operation must not depend on anything
 * that does not come from its arguments or from `call`.
 *
 * What was refused or failed in a run is remembered as a lesson: `lessons("net.fetch")` recalls those about a
 * capability, before the same thing is tried again.
 */

export { Refused, call } from "./counter.js";
export { lessons } from "./lessons.js";
export { operation } from "./operations.js";
