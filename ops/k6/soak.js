// Soak: the same as load.js for many minutes, in which memory must not grow.
//   k6 run -e URL=http://127.0.0.1:8080 -e KEY=llk_... -e RUN=monday-1 -e RATE=100 -e SECONDS=600 ops/k6/soak.js
import { steadyOptions } from "./lib/steady.js";

export { batches, posts } from "./lib/steady.js";
export const options = steadyOptions("soak");
