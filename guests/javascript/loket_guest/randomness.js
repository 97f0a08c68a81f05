/**
 * Randomness from the counter. `Math.random` is a generator that draws its seed at its first use in a run: one call
 * serves for all its numbers. Before the first operation the original answers.
 */

import { border, call } from "./counter.js";

const MOST = 65_536;
const SEED_BYTES = 16;
const KINDS = /^\[object (Big)?(Int|Uint)(8|16|32|64)(Clamped)?Array\]$/;

const original = Math.random;

let state;

function bytes(size) {
  const { hex } = call("random.bytes", { n: size });
  return Uint8Array.from({ length: size }, (_, index) => Number.parseInt(hex.slice(2 * index, 2 * index + 2), 16));
}

/** xoshiro128** by Blackman and Vigna (public domain): 32 bits. */
function next() {
  const turned = Math.imul(state[1], 5);
  const result = Math.imul((turned << 7) | (turned >>> 25), 9) >>> 0;
  const shifted = state[1] << 9;
  state[2] ^= state[0];
  state[3] ^= state[1];
  state[1] ^= state[2];
  state[0] ^= state[3];
  state[2] ^= shifted;
  state[3] = (state[3] << 11) | (state[3] >>> 21);
  return result;
}

/** A number from 0 to 1, that excluded, with 53 random bits. */
function random() {
  if (!border.open) {
    return original();
  }
  state ??= new Uint32Array(bytes(SEED_BYTES).buffer);
  return ((next() >>> 5) * 67_108_864 + (next() >>> 6)) / 9_007_199_254_740_992;
}

function getRandomValues(array) {
  if (!KINDS.test(Object.prototype.toString.call(array))) {
    throw new TypeError("crypto.getRandomValues takes a typed array of whole numbers");
  }
  if (array.byteLength > MOST) {
    throw new DOMException(`crypto.getRandomValues gives at most ${MOST} bytes`, "QuotaExceededError");
  }
  if (array.byteLength > 0) {
    new Uint8Array(array.buffer, array.byteOffset, array.byteLength).set(bytes(array.byteLength));
  }
  return array;
}

/** A UUID of version 4, as RFC 9562, 5.4 has it. */
function randomUUID() {
  const raw = bytes(16);
  raw[6] = (raw[6] & 0x0f) | 0x40;
  raw[8] = (raw[8] & 0x3f) | 0x80;
  const hex = [...raw].map((byte) => byte.toString(16).padStart(2, "0")).join("");
  return hex.replace(/^(.{8})(.{4})(.{4})(.{4})(.{12})$/, "$1-$2-$3-$4-$5");
}

/** Route the sources of chance. The engine has no `crypto` of its own, so that one works inside operations only. */
export function install() {
  Math.random = random;
  globalThis.crypto = Object.freeze({ getRandomValues, randomUUID });
}
