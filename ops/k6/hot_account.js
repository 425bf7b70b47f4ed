// Hot account: everybody credits one account; and everybody draws one account with a floor until it is empty.
//   k6 run -e URL=http://127.0.0.1:8080 -e KEY=llk_... -e RUN=monday-1 -e RATE=100 -e DRAWS=1500 ops/k6/hot_account.js
// The account with a floor holds enough for two of three draws; the others must be rejected, and its balance, which a
// client looks at all the time, must never be below zero.
import http from "k6/http";
import { check, sleep } from "k6";
import {
  AMOUNT_MINOR, EVERY_CHECK, RUN, countPost, headers, iteration, keyOf, limitsOf, mustPost, number, options as made, post, steady, tell,
  transfer,
} from "./lib/intents.js";

const SECONDS = number("SECONDS", 10);
const DRAWS = number("DRAWS", 1500);
const DRAW_CLIENTS = number("CLIENTS", 40);
const WAIT_SECONDS = 30;
const HOT = `liabilities:${RUN}:hot`;
const FLOORED = `users:${RUN}:wallet`;
const LOOK_SECONDS = 0.5;

export const options = made(
    {
      credits: steady(number("RATE", 100), SECONDS, { exec: "credits" }),
      draws: {
        executor: "shared-iterations", vus: DRAW_CLIENTS, iterations: DRAWS, maxDuration: "5m", exec: "draws",
        startTime: `${SECONDS}s`,
      },
      watch: { executor: "constant-vus", vus: 1, duration: `${SECONDS}s`, exec: "watch", startTime: `${SECONDS}s` },
    },
    limitsOf("hot_account"),
    ["credits", "draws"],
);
Object.assign(options.thresholds, EVERY_CHECK);

export function setup() {
  mustPost(`${RUN}-fund`, transfer("external:bank", FLOORED, AMOUNT_MINOR * Math.floor((2 * DRAWS) / 3)));
}

export function credits() {
  const key = keyOf(iteration());
  countPost(key, post(key, transfer(`assets:${RUN}:a${iteration() % 100}`, HOT)));
}

export function draws() {
  const key = keyOf(iteration());
  const answer = post(key, transfer(FLOORED, `assets:${RUN}:drawn`), { waitSeconds: WAIT_SECONDS });
  countPost(key, answer);
  tell(key, "draw", answer);
}

export function watch() {
  const tags = { name: "GET /v1/accounts/{address}/balances" };
  const answer = http.get(`${__ENV.URL}/v1/accounts/${FLOORED}/balances`, { headers: headers(), tags });
  check(answer, {
    "the floor holds": (got) => got.status === 200 && got.json("items").every((found) => found.balance_minor >= 0),
  });
  sleep(LOOK_SECONDS);
}
