// Spike: FACTOR times the usual rate for some seconds, and how soon it is as before.
//   k6 run -e URL=http://127.0.0.1:8080 -e KEY=llk_... -e RUN=monday-1 -e RATE=50 ops/k6/spike.js
// The limits go for `before` and `after`: the spike itself may be slow, or answered by 503 with Retry-After.
import { countPost, iteration, keyOf, limitsOf, number, options as made, ordinary, post, steady } from "./lib/intents.js";

const RATE = number("RATE", 50);
const SECONDS = number("SECONDS", 10);
const SPIKE_SECONDS = number("SPIKE_SECONDS", 5);
const RECOVERY_SECONDS = number("RECOVERY_SECONDS", 10);
const phase = (rate, seconds, start) => steady(rate, seconds, { exec: "posts", startTime: `${start}s` });

export const options = made(
  {
    before: phase(RATE, SECONDS, 0),
    spike: phase(RATE * number("FACTOR", 10), SPIKE_SECONDS, SECONDS),
    recovery: phase(RATE, RECOVERY_SECONDS, SECONDS + SPIKE_SECONDS),
    after: phase(RATE, SECONDS, SECONDS + SPIKE_SECONDS + RECOVERY_SECONDS),
  },
  limitsOf("spike"),
  ["before", "after"],
);

export function posts() {
  const key = keyOf(iteration());
  countPost(key, post(key, ordinary(iteration())));
}
