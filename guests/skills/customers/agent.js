/** Customers by number and by e-mail address: pure functions of their arguments and of the table that it carries. */

import { Refused, operation } from "loket_guest";
import { CUSTOMERS } from "./table.js";

const byNumber = new Map(CUSTOMERS.map((one) => [one.id, one]));
const byAddress = new Map(CUSTOMERS.map((one) => [one.email.toLowerCase(), one]));

/** A customer by number. */
operation("lookup", ({ id }) => {
  const found = byNumber.get(id);
  if (found === undefined) {
    throw new Refused("customers.unknown", `there is no customer ${id}`, "customers.find looks for an e-mail address");
  }
  return found;
});

/** The customer with an e-mail address, or null. */
operation("find", ({ email }) => {
  const customer = byAddress.get(email.toLowerCase()) ?? null;
  return { found: customer !== null, customer };
});
