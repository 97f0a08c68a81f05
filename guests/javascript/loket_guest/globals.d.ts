/** What a module has beside the language itself; `clock.now`, `random.bytes` and `log.write` answer. */

declare const console: Record<
  "log" | "info" | "debug" | "trace" | "dir" | "warn" | "error",
  (...values: unknown[]) => void
> & { assert(holds: unknown, ...values: unknown[]): void };

declare const crypto: {
  getRandomValues<Kind extends ArrayBufferView>(array: Kind): Kind;
  randomUUID(): string;
};

declare const performance: { now(): number; readonly timeOrigin: number };

declare function queueMicrotask(callback: () => void): void;
declare function atob(text: string): string;
declare function btoa(text: string): string;
