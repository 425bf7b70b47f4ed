// Single posts to POST /v1/intents at a fixed rate; run by `make bench`, or by hand:
//   k6 run -e URL=http://127.0.0.1:8080 -e KEY=llk_... -e RATE=500 -e SECONDS=15 ops/k6/single_posts.js
// WAIT=N asks for the outcome within N seconds (`Prefer: wait=N`), and every answer must have it.
import http from "k6/http";
import { check } from "k6";

export const options = {
  discardResponseBodies: true,
  summaryTrendStats: ["med", "p(95)", "p(99)", "max"],
  scenarios: {
    posts: {
      executor: "constant-arrival-rate",
      duration: `${__ENV.SECONDS || 15}s`,
      rate: Number(__ENV.RATE || 500),
      timeUnit: "1s",
      preAllocatedVUs: 100,
      maxVUs: 400,
    },
  },
  thresholds: { checks: ["rate==1.0"] },
};

const run = `${Date.now()}`;
const wanted = __ENV.WAIT ? 200 : 202;
const prefer = __ENV.WAIT ? { "Prefer": `wait=${__ENV.WAIT}` } : {};

export default function () {
  const body = JSON.stringify({
    type: "transfer",
    legs: [
      { account: `assets:a${Math.floor(Math.random() * 10000)}`, direction: "debit", amount_minor: 100, currency: "EUR" },
      { account: `assets:a${Math.floor(Math.random() * 10000)}`, direction: "credit", amount_minor: 100, currency: "EUR" },
    ],
  });
  const answer = http.post(`${__ENV.URL}/v1/intents`, body, {
    headers: {
      "Authorization": `Bearer ${__ENV.KEY}`,
      "Content-Type": "application/json",
      "Idempotency-Key": `k6-${run}-${__VU}-${__ITER}`,
      ...prefer,
    },
  });
  check(answer, { [`status ${wanted}`]: (got) => got.status === wanted });
}
