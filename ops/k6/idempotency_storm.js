// Idempotency storm: each key from many clients at once, most with the same body, some with another.
//   k6 run -e URL=http://127.0.0.1:8080 -e KEY=llk_... -e RUN=monday-1 -e KEYS=50 ops/k6/idempotency_storm.js
// Whoever runs it judges the answers, which are all written down: one posting a key, one id in all its answers, and
// `idempotency-conflict` for every body but the one that came first. The bodies `other` draw an account with a floor and
// so come to another lane than the rest, which makes two lanes settle one key at the same moment.
import http from "k6/http";
import {
  RUN, iteration, limitsOf, mustPost, number, options as made, post, tell, transfer,
} from "./lib/intents.js";

const KEYS = number("KEYS", 50);
const CLIENTS = number("CLIENTS", 40);
const WAIT_SECONDS = 30;
const WALLET = `users:${RUN}:wallet`;
const BODIES = {
  same: transfer(`assets:${RUN}:a1`, `assets:${RUN}:a2`),
  larger: transfer(`assets:${RUN}:a1`, `assets:${RUN}:a2`, 200),
  other: transfer(WALLET, `assets:${RUN}:a2`),
};
const ORDER = ["same", "other", "same", "larger", "same", "same", "other", "same"];

export const options = {
  ...made(
    { storm: { executor: "shared-iterations", vus: CLIENTS, iterations: KEYS * CLIENTS, maxDuration: "3m", exec: "storm" } },
    limitsOf("idempotency_storm"),
  ),
  teardownTimeout: "3m",
};

http.setResponseCallback(http.expectedStatuses(200, 202, 422));

export function setup() {
  mustPost(`${RUN}-fund`, transfer("external:bank", WALLET, 200 * KEYS));
}

// Clients take the iterations in turn, so that all of them have the same key at about the same time.
export function storm() {
  const at = iteration();
  const asked = ORDER[at % ORDER.length];
  const key = `${RUN}-storm-${Math.floor(at / CLIENTS)}`;
  tell(key, asked, post(key, BODIES[asked], { waitSeconds: WAIT_SECONDS }));
}

// When all is settled: each body once more with each key.
export function teardown() {
  for (let at = 0; at < KEYS; at++) {
    const key = `${RUN}-storm-${at}`;
    for (const [asked, body] of Object.entries(BODIES)) tell(key, `again ${asked}`, post(key, body));
  }
}
