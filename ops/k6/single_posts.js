// Single posts to POST /v1/intents at a fixed rate; run by `make bench`, or by hand:
//   k6 run -e URL=http://127.0.0.1:8080 -e KEY=llk_... -e RUN=monday-1 -e RATE=500 -e SECONDS=15 ops/k6/single_posts.js
// WAIT=N asks for the outcome within N seconds (`Prefer: wait=N`), and every answer must have it.
import { check } from "k6";
import { EVERY_CHECK, iteration, keyOf, number, post, random } from "./lib/intents.js";

export const options = {
  discardResponseBodies: true,
  summaryTrendStats: ["med", "p(95)", "p(99)", "max"],
  scenarios: {
    posts: {
      executor: "constant-arrival-rate",
      duration: `${number("SECONDS", 15)}s`,
      rate: number("RATE", 500),
      timeUnit: "1s",
      preAllocatedVUs: 100,
      maxVUs: 400,
    },
  },
  thresholds: EVERY_CHECK,
};

const waitSeconds = number("WAIT", 0);
const wanted = waitSeconds ? 200 : 202;

export default function () {
  const answer = post(keyOf(iteration()), random(), { waitSeconds });
  check(answer, { [`status ${wanted}`]: (got) => got.status === wanted });
}
