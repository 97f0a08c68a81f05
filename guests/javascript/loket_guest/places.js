/**
 * Where an error happened, in the author's files: the bundle that runs has a source map (`globalThis.__loket_map`, put
 * there by the build: `sources`, and `mappings` as in a source map of version 3).
 */

const DIGITS = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
const OWN = /^(loket_guest\/|<loket>)/;
const MOST = 6;

/** The innermost places of an error, the innermost last: `agent.js:3 in message`. Those in this library are left out. */
export function places(error) {
  return found(error)
    .map((one) => `${one.file}:${one.line}${one.name}`)
    .slice(-MOST);
}

/** The innermost place: `{ file, line }` of the author's file, or undefined. */
export function innermost(error) {
  const last = found(error).at(-1);
  return last && { file: last.file, line: last.line };
}

/** `TypeError: it is no number`. */
export function sentence(error) {
  if (!(error instanceof Error)) {
    return `thrown: ${String(error)}`;
  }
  return error.message ? `${error.name}: ${error.message}` : error.name;
}

function found(error) {
  const made = [];
  for (const line of String(error?.stack ?? "").split("\n").reverse()) {
    const [, name, row, column] = /^\s*at (.*?) \(.*?:(\d+):(\d+)\)$/.exec(line) ?? [];
    const place = row && original(Number(row), Number(column));
    if (place && !OWN.test(place.file)) {
      made.push({ ...place, name: name === "<anonymous>" ? "" : ` in ${name}` });
    }
  }
  return made;
}

/** The author's file and line for a place in the bundle; lines count from 1. */
function original(row, column) {
  const map = globalThis.__loket_map;
  const segments = map?.mappings.split(";") ?? [];
  let source = 0;
  let line = 0;
  let best;
  for (let index = 0; index < Math.min(row, segments.length); index += 1) {
    let generated = 0;
    for (const segment of segments[index] ? segments[index].split(",") : []) {
      const [step, toSource = 0, toLine = 0] = numbers(segment);
      generated += step;
      source += toSource;
      line += toLine;
      if (index === row - 1 && (best === undefined || generated < column)) {
        best = { file: map.sources[source], line: line + 1 };
      }
    }
  }
  return best;
}

/** The numbers of one segment: base 64, five bits a digit, the lowest bit of the whole being the sign. */
function numbers(segment) {
  const made = [];
  let value = 0;
  let shift = 0;
  for (const letter of segment) {
    const digit = DIGITS.indexOf(letter);
    value += (digit & 31) << shift;
    shift += 5;
    if (digit < 32) {
      made.push(value & 1 ? -(value >> 1) : value >> 1);
      value = 0;
      shift = 0;
    }
  }
  return made;
}
