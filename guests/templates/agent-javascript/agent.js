/** Greets people and counts their visits. */

import { call, operation } from "loket_guest";

const NOON = 12;

/** Answer a message. Answers the reply as `text`; more may stand beside it. */
operation("message", ({ text }) => {
  const name = text.trim() || "stranger";
  const key = `visits/${name.slice(0, 100)}`;
  const visits = (call("kv.get", { key }).value ?? 0) + 1;
  call("kv.set", { key, value: visits });
  console.log(`${name} was here ${visits} times`); // goes into the run's log
  const greeting = new Date().getUTCHours() < NOON ? "Good morning" : "Good day";
  return { text: `${greeting}, ${name}. This is visit number ${visits}.` };
});
