/** Counts visits. */

import { call } from "loket_guest";

export interface Person {
  readonly name: string;
}

export namespace Visits {
  export function next({ name }: Person): number {
    const key = `visits/${name}`;
    const visits = (call<{ value: number | null }>("kv.get", { key }).value ?? 0) + 1;
    call("kv.set", { key, value: visits });
    return visits;
  }
}
