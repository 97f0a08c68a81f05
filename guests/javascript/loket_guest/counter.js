/** The one way out of a module: `call`. */

import { call as ask } from "loket:kernel/counter@1.0.0";
import { fromJson, toJson } from "./json.js";

/** The counter, or another module, said no. Throw it yourself to answer with a refusal. */
export class Refused extends Error {
  constructor(code, message, remedy = null) {
    super(message);
    this.name = "Refused";
    this.code = code;
    this.remedy = remedy;
  }
}

/** Whether the module runs. While it is being built there is no counter yet. */
export const border = { open: false };

/** Ask the counter for a capability: `call("kv.get", { key: "visits" })` gives `{ found: true, value: 3 }`. */
export function call(capability, args = {}) {
  if (!border.open) {
    throw new Error(`call("${capability}") while the module is being built: call it inside an operation`);
  }
  if (args === null || typeof args !== "object" || Array.isArray(args)) {
    throw new TypeError(`the arguments of call("${capability}") have to be an object`);
  }
  const text = toJson(args);
  let answer;
  try {
    answer = ask(String(capability), text);
  } catch (error) {
    const refusal = error?.payload;
    throw refusal ? new Refused(refusal.code, refusal.message, refusal.remedy ?? null) : error;
  }
  return fromJson(answer);
}
