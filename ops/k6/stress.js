// Stress: rates that rise step by step until it breaks, then a flood, and a client that may ask only a little.
//   k6 run -e URL=http://127.0.0.1:8080 -e KEY=llk_... -e RUN=monday-1 -e RATES=200,400,800 ops/k6/stress.js
// No step is limited here: whoever runs it finds the knee from each step's figures. What is refused must be refused
// with Retry-After, and what is acknowledged must be posted, however hard the ledger is pressed.
import {
  countPost, count, header, iteration, keyOf, number, options as made, ordinary, post, postTogether, steady,
} from "./lib/intents.js";

const RATES = (__ENV.RATES || "100,200,400").split(",").map(Number);
const SECONDS = number("SECONDS", 8);
// Between two steps, so that one does not pay for the other.
const REST_SECONDS = 3;
const FLOOD_CLIENTS = number("FLOOD_CLIENTS", 60);
const FLOOD_POSTS = 50;
const FLOOD_WAIT_SECONDS = 10;
const THROTTLED_POSTS = 200;

const steps = RATES.map((rate, at) => [
  `step_${at}`,
  steady(rate, SECONDS, { exec: "posts", startTime: `${at * (SECONDS + REST_SECONDS)}s` }),
]);
const stepsEnd = `${RATES.length * (SECONDS + REST_SECONDS)}s`;
const flooding = {
  executor: "per-vu-iterations", vus: FLOOD_CLIENTS, iterations: 1, maxDuration: "3m", exec: "flood", startTime: stepsEnd,
};
// A key of a few requests a minute, beside all the others.
const impatient = { executor: "shared-iterations", vus: 2, iterations: THROTTLED_POSTS, maxDuration: "2m", exec: "throttled" };

export const options = made({
  ...Object.fromEntries(steps),
  flood: flooding,
  ...(__ENV.KEY_THROTTLED ? { throttled: impatient } : {}),
});

export function posts() {
  const key = keyOf(iteration());
  countPost(key, post(key, ordinary(iteration())));
}

export function flood() {
  const first = iteration() * FLOOD_POSTS;
  const asked = Array.from({ length: FLOOD_POSTS }, (_, item) => [keyOf(first + item), ordinary(first + item)]);
  const answers = postTogether(asked, { waitSeconds: FLOOD_WAIT_SECONDS });
  asked.forEach(([key], at) => count(key, answers[at].status, header(answers[at], "Retry-After")));
}

export function throttled() {
  const key = keyOf(iteration());
  countPost(key, post(key, ordinary(iteration()), { apiKey: __ENV.KEY_THROTTLED }));
}
