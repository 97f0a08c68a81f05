/** `console` into the run's log, one `log.write` a line. While the module is being built nothing is shown. */

import { Refused, border, call } from "./counter.js";
import { places, sentence } from "./places.js";

const MOST = 65_536;
const DEPTH = 4;
const LEVELS = { log: "info", info: "info", debug: "debug", trace: "debug", dir: "info", warn: "warning", error: "error" };

let refused = false;

/** Write to the run's log, in pieces that it takes. A line lost is no reason to fail. */
export function write(text, level) {
  for (let start = 0; border.open && !refused && start < text.length; start += MOST) {
    try {
      call("log.write", { text: text.slice(start, start + MOST), level });
    } catch (error) {
      if (!(error instanceof Refused)) {
        throw error;
      }
      refused = true;
    }
  }
}

function lines(level, values) {
  for (const line of format(values).split("\n")) {
    write(line, level);
  }
}

/** `%s`, `%d`, `%i`, `%f`, `%j`, `%o` and `%O` of a first text, then what is left, with spaces between. */
function format([first, ...rest]) {
  const directives = {
    s: (value) => (typeof value === "string" ? value : shown(value)),
    d: (value) => String(Number(value)),
    i: (value) => String(Math.trunc(Number(value))),
    f: (value) => String(Number(value)),
    j: (value) => JSON.stringify(value) ?? "undefined",
    o: (value) => shown(value),
    O: (value) => shown(value),
  };
  const left = [...rest];
  const filled =
    typeof first === "string"
      ? first.replace(/%([sdifjoO%])/g, (whole, kind) => {
          if (kind === "%") {
            return "%";
          }
          return left.length > 0 ? directives[kind](left.shift()) : whole;
        })
      : shown(first);
  return [filled, ...left.map((value) => (typeof value === "string" ? value : shown(value)))].join(" ");
}

/** A value as a person would write it down. */
function shown(value, depth = DEPTH, above = []) {
  if (value instanceof Error) {
    return [...places(value), sentence(value)].join("\n");
  }
  if (typeof value === "function") {
    return `[function ${value.name || "without a name"}]`;
  }
  if (typeof value === "string") {
    return JSON.stringify(value);
  }
  if (typeof value !== "object" || value === null) {
    return typeof value === "bigint" ? `${value}n` : String(value);
  }
  if (above.includes(value)) {
    return "[circular]";
  }
  return depth === 0 ? "[...]" : content(value, (one) => shown(one, depth - 1, [...above, value]));
}

function content(value, inner) {
  if (value instanceof Date) {
    return Number.isNaN(value.getTime()) ? "Invalid Date" : value.toISOString();
  }
  if (Array.isArray(value) || ArrayBuffer.isView(value)) {
    return `[${Array.from(value, inner).join(", ")}]`;
  }
  if (value instanceof Map) {
    return `Map {${[...value].map(([key, one]) => `${inner(key)} => ${inner(one)}`).join(", ")}}`;
  }
  if (value instanceof Set) {
    return `Set {${[...value].map(inner).join(", ")}}`;
  }
  return `{${Object.entries(value).map(([key, one]) => `${key}: ${inner(one)}`).join(", ")}}`;
}

/** Put `console` in its place. */
export function install() {
  const made = {};
  for (const [name, level] of Object.entries(LEVELS)) {
    made[name] = (...values) => lines(level, values);
  }
  made.assert = (holds, ...values) => {
    if (!holds) {
      lines("error", values.length > 0 ? ["Assertion failed:", ...values] : ["Assertion failed"]);
    }
  };
  globalThis.console = made;
}
