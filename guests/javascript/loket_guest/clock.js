/** Time from the counter: `Date` and `performance`. Before the first operation the originals answer. */

import { border, call } from "./counter.js";

const Original = globalThis.Date;
const original = globalThis.performance;

let last = 0;

/** Milliseconds since 1970-01-01T00:00Z. */
function now() {
  return call("clock.now").seconds * 1000;
}

function today() {
  return border.open ? Math.floor(now()) : Original.now();
}

function Date(...given) {
  if (new.target === undefined) {
    return new Original(today()).toString();
  }
  return Reflect.construct(Original, given.length > 0 ? given : [today()], new.target);
}

/** Milliseconds that never go back, even where the host's clock does. They count from 1970. */
function steady() {
  last = Math.max(last, now());
  return last;
}

/** Route what reads the clock. */
export function install() {
  for (const name of ["parse", "UTC"]) {
    Object.defineProperty(Date, name, { value: Original[name], writable: true, configurable: true });
  }
  Object.defineProperty(Date, "now", { value: () => today(), writable: true, configurable: true });
  Object.defineProperty(Date, "length", { value: 7, configurable: true });
  Date.prototype = Original.prototype;
  Object.defineProperty(Date.prototype, "constructor", { value: Date, writable: true, configurable: true });
  globalThis.Date = Date;
  globalThis.performance = {
    timeOrigin: 0,
    now: () => (border.open ? steady() : original.now()),
    toJSON: () => ({ timeOrigin: 0 }),
  };
}
