// Batches to POST /v1/intents/batch, as fast as VUS clients come by their answers; run by `make bench`, or by hand:
//   k6 run -e URL=http://127.0.0.1:8080 -e KEY=llk_... -e RUN=monday-1 -e VUS=8 -e ITEMS=1000 -e SECONDS=15 ops/k6/batch_posts.js
import { check } from "k6";
import { EVERY_CHECK, iteration, keyOf, number, postBatch, random } from "./lib/intents.js";

export const options = {
  discardResponseBodies: true,
  summaryTrendStats: ["med", "p(95)", "p(99)", "max"],
  scenarios: {
    batches: { executor: "constant-vus", duration: `${number("SECONDS", 15)}s`, vus: number("VUS", 8) },
  },
  thresholds: EVERY_CHECK,
};

// The generator shares the cores with what it measures, so a batch is written once, and only its keys are new each time.
const MARK = "@";
const parts = JSON.stringify(
  Array.from({ length: number("ITEMS", 1000) }, (_, item) => ({ idempotency_key: `${MARK}-${item}`, ...random() })),
).split(MARK);

export default function () {
  const answer = postBatch(parts.join(keyOf(iteration())));
  check(answer, { "200 OK": (got) => got.status === 200 });
}
