/**
 * Promises whose callbacks run before an operation answers. The engine never comes to its own queue of jobs in a
 * function that is called from outside, so `Promise` is this class, and the build turns `async` functions into
 * generators that use it.
 */

import { write } from "./console.js";
import { sentence } from "./places.js";

const queue = [];
const unheard = new Set();

class LoketPromise {
  #state = "pending";
  #value;
  #waiting = [];

  constructor(executor) {
    if (typeof executor !== "function") {
      throw new TypeError("a promise needs a function");
    }
    let settled = false;
    const once = (settle) => (value) => {
      if (!settled) {
        settled = true;
        settle(value);
      }
    };
    const reject = once((reason) => this.#settle("rejected", reason));
    try {
      executor(once((value) => this.#resolve(value)), reject);
    } catch (error) {
      reject(error);
    }
  }

  #resolve(value) {
    let then;
    try {
      if (value === this) {
        throw new TypeError("a promise cannot be settled with itself");
      }
      then = value !== null && (typeof value === "object" || typeof value === "function") ? value.then : undefined;
    } catch (error) {
      this.#settle("rejected", error);
      return;
    }
    if (typeof then !== "function") {
      this.#settle("fulfilled", value);
      return;
    }
    queue.push(() => {
      new LoketPromise((done, fail) => then.call(value, done, fail)).#when(
        (result) => this.#settle("fulfilled", result),
        (reason) => this.#settle("rejected", reason),
      );
    });
  }

  #settle(state, value) {
    this.#state = state;
    this.#value = value;
    if (state === "rejected" && this.#waiting.length === 0) {
      unheard.add(this);
    }
    for (const one of this.#waiting.splice(0)) {
      queue.push(one);
    }
  }

  #when(fulfilled, rejected) {
    unheard.delete(this);
    const job = () => (this.#state === "fulfilled" ? fulfilled : rejected)(this.#value);
    if (this.#state === "pending") {
      this.#waiting.push(job);
    } else {
      queue.push(job);
    }
  }

  then(fulfilled, rejected) {
    return new this.constructor[Symbol.species]((resolve, reject) => {
      const through = (callback, otherwise) => (value) => {
        if (typeof callback !== "function") {
          otherwise(value);
          return;
        }
        try {
          resolve(callback(value));
        } catch (error) {
          reject(error);
        }
      };
      this.#when(through(fulfilled, resolve), through(rejected, reject));
    });
  }

  catch(rejected) {
    return this.then(undefined, rejected);
  }

  finally(last) {
    if (typeof last !== "function") {
      return this.then(last, last);
    }
    return this.then(
      (value) => LoketPromise.resolve(last()).then(() => value),
      (reason) =>
        LoketPromise.resolve(last()).then(() => {
          throw reason;
        }),
    );
  }

  get [Symbol.toStringTag]() {
    return "Promise";
  }

  static get [Symbol.species]() {
    return this;
  }

  static resolve(value) {
    return value instanceof LoketPromise ? value : new this((resolve) => resolve(value));
  }

  static reject(reason) {
    return new this((_resolve, reject) => reject(reason));
  }

  static withResolvers() {
    let resolve;
    let reject;
    const promise = new this((done, fail) => {
      resolve = done;
      reject = fail;
    });
    return { promise, resolve, reject };
  }

  static try(fn, ...args) {
    return new this((resolve) => resolve(fn(...args)));
  }

  static all(given) {
    return gather(this, given, (values, index, step) => [(value) => step(() => (values[index] = value))]);
  }

  static allSettled(given) {
    return gather(this, given, (values, index, step) => [
      (value) => step(() => (values[index] = { status: "fulfilled", value })),
      (reason) => step(() => (values[index] = { status: "rejected", reason })),
    ]);
  }

  static any(given) {
    const all = [...given].map((one) => this.resolve(one).then((value) => [value], (reason) => ({ reason })));
    return new this((resolve, reject) => {
      all.forEach((one) => one.then((found) => Array.isArray(found) && resolve(found[0])));
      this.all(all).then((found) => {
        reject(new AggregateError(found.map((one) => one.reason), "All promises were rejected"));
      });
    });
  }

  static race(given) {
    return new this((resolve, reject) => {
      for (const one of given) {
        this.resolve(one).then(resolve, reject);
      }
    });
  }

  /** How it stands: state and value. */
  static peek(promise) {
    unheard.delete(promise);
    return [promise.#state, promise.#value];
  }
}

/** A promise of all values; `callbacks` gives what to do with each, and calls `step` when it is done with one. */
function gather(Kind, given, callbacks) {
  return new Kind((resolve, reject) => {
    const values = [];
    let left = 1;
    const step = (store) => {
      store();
      left -= 1;
      if (left === 0) {
        resolve(values);
      }
    };
    [...given].forEach((one, index) => {
      left += 1;
      const [fulfilled, rejected = reject] = callbacks(values, index, step);
      Kind.resolve(one).then(fulfilled, rejected);
    });
    step(() => undefined);
  });
}

const Peek = LoketPromise.peek;
delete LoketPromise.peek;
Object.defineProperty(LoketPromise, "name", { value: "Promise" });

/** Put the class in the place of the engine's. */
export function install() {
  globalThis.Promise = LoketPromise;
  globalThis.queueMicrotask = (callback) => {
    queue.push(callback);
  };
  delete Array.fromAsync;
}

/** Run what waits until nothing does, and say of which rejections nobody heard. */
export function drain() {
  while (queue.length > 0) {
    queue.shift()();
  }
  for (const promise of unheard) {
    write(`a promise was rejected, and nothing handled it: ${sentence(Peek(promise)[1])}`, "warning");
  }
}

/** The value of what an operation returned, which may be a promise. Throws what it was rejected with. */
export function finish(value) {
  const thenable = typeof value?.then === "function";
  const promise = thenable ? LoketPromise.resolve(value) : undefined;
  promise?.catch(() => undefined);
  drain();
  if (promise === undefined) {
    return value;
  }
  const [state, result] = Peek(promise);
  if (state === "pending") {
    throw new Error("the operation's promise is still pending, and nothing is left that could settle it");
  }
  if (state === "rejected") {
    throw result;
  }
  return result;
}
