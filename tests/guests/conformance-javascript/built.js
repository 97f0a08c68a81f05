/** What is read and drawn where the file is loaded, which is when the component is built. */

export const builtAt = Date.now() / 1000;
export const builtNumber = Math.random();
