// A constant load of single posts and of batches: `load.js` for a minute, `soak.js` for many.
import {
  RUN, countBatch, countPost, iteration, keyOf, limitsOf, number, options, ordinary, post, postBatch, steady,
} from "./intents.js";

const ITEMS = number("ITEMS", 100);

export function steadyOptions(suite) {
  const seconds = number("SECONDS", 60);
  return options(
    {
      posts: steady(number("RATE", 100), seconds, { exec: "posts" }),
      batches: steady(number("BATCH_RATE", 2), seconds, { exec: "batches" }),
    },
    limitsOf(suite),
  );
}

export function posts() {
  const key = keyOf(iteration());
  countPost(key, post(key, ordinary(iteration())));
}

export function batches() {
  const first = iteration() * ITEMS;
  const keys = Array.from({ length: ITEMS }, (_, item) => keyOf(first + item));
  const items = keys.map((key, item) => ({ idempotency_key: key, reference: RUN, ...ordinary(first + item) }));
  countBatch(keys, postBatch(items));
}
