/** Imported first, before the author's files: routes clock, chance and output, and puts promises in their place. */

import * as clock from "./clock.js";
import * as log from "./console.js";
import * as promises from "./promises.js";
import * as randomness from "./randomness.js";

clock.install();
log.install();
promises.install();
randomness.install();
