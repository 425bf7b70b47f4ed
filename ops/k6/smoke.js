// Smoke: does each way in work at all? A few posts that wait for their outcome and are looked up, and small batches.
//   k6 run -e URL=http://127.0.0.1:8080 -e KEY=llk_... -e RUN=monday-1 ops/k6/smoke.js
import http from "k6/http";
import { check } from "k6";
import {
  EVERY_CHECK, countPost, headers, iteration, keyOf, limitsOf, number, options as made, ordinary, post, steady,
} from "./lib/intents.js";

export { batches } from "./lib/steady.js";

const SECONDS = number("SECONDS", 10);
const WAIT_SECONDS = 20;

export const options = made(
  {
    posts: steady(number("RATE", 10), SECONDS, { exec: "posts" }),
    batches: steady(number("BATCH_RATE", 1), SECONDS, { exec: "batches" }),
  },
  limitsOf("smoke"),
);
Object.assign(options.thresholds, EVERY_CHECK);

export function posts() {
  const key = keyOf(iteration());
  const answer = post(key, ordinary(iteration()), { waitSeconds: WAIT_SECONDS });
  if (!countPost(key, answer)) return;
  const intentId = answer.json("intent_id");
  const tags = { name: "GET /v1/intents/{intent_id}" };
  const found = http.get(`${__ENV.URL}/v1/intents/${intentId}`, { headers: headers(), tags });
  check(found, {
    "the intent is posted": (got) => got.status === 200 && got.json("status") === "posted",
    "and has its receipt": (got) => got.status === 200 && /^[0-9a-f]{64}$/.test(got.json("receipt.hash")),
  });
}
