/** The conformance module in JavaScript: `loket.testing.guest_conformance.OPERATIONS` says what each operation does. */

import { operation } from "loket_guest";
import { builtAt, builtNumber } from "./built.js";
import "./calls.js";

function mistake() {
  throw new TypeError("the module's own mistake");
}

function deeper(depth) {
  return deeper(depth + 1) + 1;
}

operation("echo", (args) => args);

operation("crash", () => mistake());

operation("clock", () => ({ built: builtAt, now: Date.now() / 1000 }));

operation("random", ({ n }) => ({ built: builtNumber, numbers: Array.from({ length: n }, () => Math.random()) }));

operation("log", ({ text }) => {
  console.log(text);
  return {};
});

operation("spin", () => {
  for (;;) {
    // without end
  }
});

operation("memory", () => {
  const taken = [];
  for (;;) {
    taken.push(new Uint8Array(1 << 20));
  }
});

operation("recursion", () => deeper(0));

operation("long", ({ kib }) => ({ text: "x".repeat(kib << 10) }));
