// Batches to POST /v1/intents/batch, as fast as VUS clients come by their answers; run by `make bench`, or by hand:
//   k6 run -e URL=http://127.0.0.1:8080 -e KEY=llk_... -e VUS=8 -e ITEMS=1000 -e SECONDS=15 ops/k6/batch_posts.js
import http from "k6/http";
import { check } from "k6";

export const options = {
  discardResponseBodies: true,
  summaryTrendStats: ["med", "p(95)", "p(99)", "max"],
  scenarios: {
    batches: { executor: "constant-vus", duration: `${__ENV.SECONDS || 15}s`, vus: Number(__ENV.VUS || 8) },
  },
  thresholds: { checks: ["rate==1.0"] },
};

const run = `${Date.now()}`;

// The generator shares the cores with what it measures, so a batch is written once, and only its keys are new each time.
const MARK = "@";
const parts = JSON.stringify(
  Array.from({ length: Number(__ENV.ITEMS || 1000) }, (_, item) => ({
    idempotency_key: `k6-${MARK}-${item}`,
    type: "transfer",
    legs: [
      { account: `assets:a${Math.floor(Math.random() * 10000)}`, direction: "debit", amount_minor: 100, currency: "EUR" },
      { account: `assets:a${Math.floor(Math.random() * 10000)}`, direction: "credit", amount_minor: 100, currency: "EUR" },
    ],
  })),
).split(MARK);

export default function () {
  const answer = http.post(`${__ENV.URL}/v1/intents/batch`, parts.join(`${run}-${__VU}-${__ITER}`), {
    headers: { "Authorization": `Bearer ${__ENV.KEY}`, "Content-Type": "application/json" },
  });
  check(answer, { "200 OK": (got) => got.status === 200 });
}
