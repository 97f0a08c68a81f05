/** The data set: customers, invented. Days in ISO 8601. */
export const CUSTOMERS = [
  { id: "C-1001", name: "Ana Ruiz", email: "ana.ruiz@example.com", city: "Sevilla", since: "2023-04-17" },
  { id: "C-1002", name: "Ben Okafor", email: "ben@example.org", city: "Lagos", since: "2024-01-08" },
  { id: "C-1003", name: "Chitra Rao", email: "chitra.rao@example.net", city: "Pune", since: "2024-09-30" },
  { id: "C-1004", name: "Dewi Lestari", email: "dewi@example.com", city: "Bandung", since: "2025-02-11" },
  { id: "C-1005", name: "Emil Holm", email: "emil.holm@example.org", city: "Aarhus", since: "2026-03-02" },
];
