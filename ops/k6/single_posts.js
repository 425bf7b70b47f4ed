// Single posts to POST /v1/intents at a fixed rate; run by `make bench`, or by hand:
//   k6 run -e URL=http://127.0.0.1:8080 -e KEY=llk_... -e RATE=200 -e SECONDS=15 ops/k6/single_posts.js
import http from "k6/http";
import { check } from "k6";

export const options = {
  discardResponseBodies: true,
  summaryTrendStats: ["med", "p(95)", "p(99)", "max"],
  scenarios: {
    posts: {
      executor: __ENV.RATE ? "constant-arrival-rate" : "constant-vus",
      duration: `${__ENV.SECONDS || 15}s`,
      ...(__ENV.RATE
        ? { rate: Number(__ENV.RATE), timeUnit: "1s", preAllocatedVUs: 50, maxVUs: 200 }
        : { vus: Number(__ENV.VUS || 16) }),
    },
  },
  thresholds: { checks: ["rate==1.0"] },
};

const run = `${Date.now()}`;

export default function () {
  const body = JSON.stringify({
    type: "transfer",
    legs: [
      { account: `assets:a${Math.floor(Math.random() * 10000)}`, direction: "debit", amount_minor: 100, currency: "EUR" },
      { account: `liabilities:b${Math.floor(Math.random() * 10000)}`, direction: "credit", amount_minor: 100, currency: "EUR" },
    ],
  });
  const answer = http.post(`${__ENV.URL}/v1/intents`, body, {
    headers: {
      "Authorization": `Bearer ${__ENV.KEY}`,
      "Content-Type": "application/json",
      "Idempotency-Key": `k6-${run}-${__VU}-${__ITER}`,
    },
  });
  check(answer, { "202 Accepted": (got) => got.status === 202 });
}
