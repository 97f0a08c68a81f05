/** The operations of a module, and `handle`, through which the host asks for one. */

import { Refused, border } from "./counter.js";
import { fromJson, toJson } from "./json.js";
import { places, sentence } from "./places.js";
import { finish } from "./promises.js";

const operations = new Map();

const MISSING = {
  fetch: 'a module has no network: call("net.fetch", { url })',
  WebSocket: 'a module has no network: call("net.fetch", { url })',
  XMLHttpRequest: 'a module has no network: call("net.fetch", { url })',
  setTimeout: "a module has no timers: an operation does its work and returns",
  setInterval: "a module has no timers: an operation does its work and returns",
  setImmediate: "a module has no timers: queueMicrotask does what can be done",
  process: "a module has no environment: what it needs comes as an argument",
  require: "write import ... from at the top of the file",
  Intl: "this engine has no tables of languages: format dates and numbers by hand",
  TextEncoder: "this engine has none: an npm package for UTF-8 will do",
  TextDecoder: "this engine has none: an npm package for UTF-8 will do",
  URL: "this engine has none: an npm package for addresses will do",
};

/**
 * Make a function an operation: `operation("send-mail", (args) => ...)`. It takes the object of all arguments, and
 * returns a JSON value or a promise of one.
 */
export function operation(name, fn) {
  if (typeof name !== "string" || typeof fn !== "function") {
    throw new TypeError('an operation needs a name and a function: operation("message", (args) => ...)');
  }
  if (operations.has(name)) {
    throw new Error(`operation "${name}" is declared twice`);
  }
  operations.set(name, fn);
  return fn;
}

/** Names of the operations that are declared. */
export function names() {
  return [...operations.keys()].sort();
}

/** Do one operation. Every way out is an answer or a refusal. */
export function handle(name, args) {
  border.open = true;
  try {
    return toJson(finish(find(name)(argumentsOf(args))) ?? null);
  } catch (error) {
    const { code, message, remedy } = refusal(error);
    throw { code: String(code), message: String(message), remedy: remedy == null ? null : String(remedy) };
  }
}

function find(name) {
  const fn = operations.get(name);
  if (fn === undefined) {
    throw new Refused("operation.unknown", `this module has no operation "${name}"`, `it has: ${names().join(", ")}`);
  }
  return fn;
}

function argumentsOf(text) {
  const value = fromJson(text || "{}");
  if (value === null || typeof value !== "object" || Array.isArray(value)) {
    throw new Refused("arguments.invalid", "the arguments of an operation are a JSON object");
  }
  return value;
}

function refusal(error) {
  if (error instanceof Refused) {
    return error;
  }
  const kind = error instanceof Error ? `${error.name}: ${error.message}` : "";
  if (kind === "InternalError: out of memory" || error === null) {
    // null is what the engine throws where it has no memory left for an error
    return new Refused("guest.memory", "the module used up its memory", "raise memory_mb under [limits] in loket.toml");
  }
  if (/^(InternalError|RangeError): (stack overflow|Maximum call stack)/.test(kind)) {
    return new Refused("guest.recursion", [...places(error).slice(-2), kind].join("\n"), "recurse less deeply");
  }
  const told = [...places(error), sentence(error)].join("\n");
  return new Refused("guest.error", told, hint(kind) ?? "mend the module and build it again");
}

/** What to do instead of something that exists in browsers or in Node and not here. */
function hint(kind) {
  const missing = /^ReferenceError: (\w+) is not defined$/.exec(kind)?.[1];
  return Object.hasOwn(MISSING, missing ?? "") ? MISSING[missing] : undefined;
}
