/** A module in TypeScript, with what has to be stripped or translated: types, an enum, a namespace, decorations. */

import { Refused, call, operation, type Json } from "loket_guest";
import { Visits, type Person } from "./visits.ts";

enum Mood {
  Good = "good",
  Bad = "bad",
}

const known = new Map<string, Person>();

abstract class Greeter {
  protected constructor(private readonly word: string) {}

  greet<T extends Person>(person: T): string {
    return `${this.word}, ${person.name satisfies string}`;
  }
}

class Morning extends Greeter {
  constructor() {
    super("Good morning");
  }
}

operation("greet", ({ name, mood = Mood.Good }: { name: string; mood?: Mood }): Json => {
  const person: Person = known.get(name) ?? { name };
  if (mood === Mood.Bad) {
    throw new Refused("mood.bad", "come back later");
  }
  return { text: new Morning().greet(person), visits: Visits.next(person!) as number };
});

operation("now", async (): Promise<Json> => (await call<{ seconds: number }>("clock.now")).seconds);
