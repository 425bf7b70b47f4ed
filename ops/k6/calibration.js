// How much the machine can do just now, and how slow it is with nothing to do.
//   k6 run -e URL=http://127.0.0.1:8080 -e KEY=llk_... -e RUN=monday-1 -e SECONDS=5 ops/k6/calibration.js
// `lone` is one client with pauses; `posts` are clients that each send the next when the last is answered. All rates and
// limits of `python -m tools.load` are in proportion to what they come to.
import { sleep } from "k6";
import { countPost, iteration, keyOf, number, options as made, ordinary, post } from "./lib/intents.js";

const LONE_SECONDS = number("LONE_SECONDS", 3);
const PAUSE_SECONDS = 0.05;

export const options = made({
  lone: { executor: "constant-vus", vus: 1, duration: `${LONE_SECONDS}s`, exec: "lone" },
  posts: {
    executor: "constant-vus", vus: number("CLIENTS", 40), duration: `${number("SECONDS", 5)}s`, exec: "posts",
    startTime: `${LONE_SECONDS}s`,
  },
});

export function lone() {
  posts();
  sleep(PAUSE_SECONDS);
}

export function posts() {
  const key = keyOf(iteration());
  countPost(key, post(key, ordinary(iteration())));
}
