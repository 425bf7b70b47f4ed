// Load: single posts and batches at a rate that the machine can well take, for a minute.
//   k6 run -e URL=http://127.0.0.1:8080 -e KEY=llk_... -e RUN=monday-1 -e RATE=100 -e SECONDS=60 ops/k6/load.js
import { steadyOptions } from "./lib/steady.js";

export { batches, posts } from "./lib/steady.js";
export const options = steadyOptions("load");
