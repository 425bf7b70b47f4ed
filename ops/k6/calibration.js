// How much the machine can do just now: posts of clients that each send the next when the last is answered.
//   k6 run -e URL=http://127.0.0.1:8080 -e KEY=llk_... -e RUN=monday-1 -e SECONDS=6 ops/k6/calibration.js
// All rates of `python -m ops.load` are in proportion to what this comes to.
import { countPost, iteration, keyOf, number, options as made, ordinary, post } from "./lib/intents.js";

export const options = made({
  posts: { executor: "constant-vus", vus: number("CLIENTS", 40), duration: `${number("SECONDS", 6)}s`, exec: "posts" },
});

export function posts() {
  const key = keyOf(iteration());
  countPost(key, post(key, ordinary(iteration())));
}
