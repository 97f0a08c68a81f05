/** The operations that make calls. One of them is asynchronous, which makes no difference to the host. */

import { Refused, call, operation } from "loket_guest";

operation("ask", async ({ capability, arguments: args }) => {
  try {
    return { answer: await call(capability, args) };
  } catch (error) {
    if (!(error instanceof Refused)) {
      throw error;
    }
    return { refused: { code: error.code, message: error.message, remedy: error.remedy } };
  }
});

operation("pass", ({ capability, arguments: args }) => call(capability, args));

operation("swallow", ({ n }) => {
  let swallowed = 0;
  for (let index = 0; index < n; index += 1) {
    try {
      call("test.refused");
    } catch {
      swallowed += 1;
    }
  }
  return { swallowed };
});

operation("refuse", () => {
  throw new Refused("test.refused", "not today", "ask tomorrow");
});
