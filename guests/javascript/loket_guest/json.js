/**
 * JSON with nothing lost on the way. Whole numbers that a JavaScript number cannot hold are `BigInt`s, in both
 * directions; numbers that JSON cannot say are errors; half a surrogate pair, which no text in UTF-8 can carry, becomes
 * a question mark.
 */

const MARK = "\uffffloket:";

function checked(_key, value) {
  if (typeof value === "number" && !Number.isFinite(value)) {
    throw new RangeError(`JSON cannot say ${value}`);
  }
  return typeof value === "bigint" ? JSON.rawJSON(String(value)) : value;
}

export function toJson(value) {
  const text = JSON.stringify(value, checked) ?? "null";
  return text.includes("\\ud") ? text.replace(/\\(?:ud[89a-f][0-9a-f]{2}|.)/g, halfPair) : text;
}

function halfPair(escape) {
  return escape.startsWith("\\ud") ? "?" : escape;
}

export function fromJson(text) {
  return /[0-9]{16}/.test(text) ? withBigIntegers(text) : JSON.parse(text);
}

/** Large whole numbers go through `JSON.parse` as marked texts; a text that begins like one of them is marked, too. */
function withBigIntegers(text) {
  JSON.parse(text); // whatever is no JSON is told before it is changed
  const marked = text.replace(/"(?:[^"\\]|\\.)*"|-?[0-9][0-9.eE+-]*/g, (token) => {
    if (token.startsWith('"')) {
      const value = token.includes(MARK) || token.includes("\\u") ? JSON.parse(token) : "";
      return value.startsWith(MARK) ? JSON.stringify(`${MARK}t${value}`) : token;
    }
    const whole = /^-?[0-9]+$/.test(token) && !Number.isSafeInteger(Number(token));
    return whole ? JSON.stringify(`${MARK}n${token}`) : token;
  });
  return JSON.parse(marked, unmarked);
}

function unmarked(_key, value) {
  if (typeof value !== "string" || !value.startsWith(MARK)) {
    return value;
  }
  const rest = value.slice(MARK.length + 1);
  return value[MARK.length] === "n" ? BigInt(rest) : rest;
}
