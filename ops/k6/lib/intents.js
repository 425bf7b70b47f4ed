// What every script shares: who is asked, what is asked, and which intents were acknowledged.
//
// An intent's key is `<RUN>-<scenario>-<number>`, where the number is that of the iteration, which k6 counts from 0 and
// without gaps in each scenario. So whoever knows how many iterations there were knows every key that was sent, and k6
// only has to write down the few that were not acknowledged: a line of JSON each, in its console output.
import http from "k6/http";
import exec from "k6/execution";
import { Counter, Rate } from "k6/metrics";

// Variables that every script takes; docs/LOAD.md has them all.
if (!__ENV.RUN) throw new Error("Name the run, as nothing else that was ever posted: k6 run -e RUN=monday-1 ...");
export const RUN = __ENV.RUN;
// How many times slower the machine is than one that has nothing else to do: limits of time are that much longer.
const SLOWNESS = Number(__ENV.SLOWNESS || 1);
export const AMOUNT_MINOR = 100;

const ACCOUNTS = 1000;
const REQUEST_SECONDS_MAX = 60;
// Longer than any request may take, so that no iteration is ever cut off: what it sent would not be known.
const STOP_SECONDS_MAX = 90;

const acknowledged = new Counter("ledgerline_acknowledged");
const failed = new Rate("ledgerline_failed");

export function number(name, otherwise) {
  return Number(__ENV[name] || otherwise);
}

// Scenarios with what they all have in common.
export function scenarios(members) {
  const common = { gracefulStop: `${STOP_SECONDS_MAX}s` };
  return Object.fromEntries(Object.entries(members).map(([name, made]) => [name, { ...common, ...made }]));
}

// So many iterations a second for so long. Clients are made as they are needed, up to a bound: one that has to wait for
// its answer does not hold up the others.
export function steady(rate, seconds, more = {}) {
  return {
    executor: "constant-arrival-rate",
    rate: Math.max(1, Math.round(rate)),
    timeUnit: "1s",
    duration: `${seconds}s`,
    preAllocatedVUs: Math.min(200, Math.max(10, Math.ceil(rate / 4))),
    maxVUs: Math.min(600, Math.max(50, Math.ceil(rate))),
    ...more,
  };
}

const STATISTICS = ["min", "med", "p(95)", "p(99)", "max"];

// Where a script makes checks, each of them must hold.
export const EVERY_CHECK = { checks: ["rate==1.0"] };

// The options of a script: its scenarios, each with its own figures in the summary, and what limits them.
// `limits` is what thresholds.json has of the suite, `limited` the scenarios that it goes for: all when not given.
export function options(members, limits = {}, limited = Object.keys(members)) {
  const thresholds = {};
  for (const name of Object.keys(members)) {
    thresholds[`iterations{scenario:${name}}`] = [];
    thresholds[`dropped_iterations{scenario:${name}}`] = [];
    thresholds[`ledgerline_acknowledged{scenario:${name}}`] = [];
    const isLimited = limited.includes(name);
    thresholds[`http_req_duration{scenario:${name}}`] =
      isLimited && limits.p95_ms_max !== undefined ? [`p(95)<=${limits.p95_ms_max * SLOWNESS}`] : [];
    thresholds[`ledgerline_failed{scenario:${name}}`] =
      isLimited && limits.error_ratio_max !== undefined ? [`rate<=${limits.error_ratio_max}`] : [];
  }
  return { scenarios: scenarios(members), thresholds, summaryTrendStats: STATISTICS, batch: 100, batchPerHost: 100 };
}

// What thresholds.json has of a suite.
export function limitsOf(suite) {
  return JSON.parse(open(import.meta.resolve("../thresholds.json"))).suites[suite];
}

export function transfer(debited, credited, amountMinor = AMOUNT_MINOR) {
  return {
    type: "transfer",
    legs: [
      { account: debited, direction: "debit", amount_minor: amountMinor, currency: "EUR" },
      { account: credited, direction: "credit", amount_minor: amountMinor, currency: "EUR" },
    ],
  };
}

// A transfer between two of this run's own accounts.
export function ordinary(at) {
  return transfer(`assets:${RUN}:a${at % ACCOUNTS}`, `assets:${RUN}:a${(at * 7 + 1) % ACCOUNTS}`);
}

// A transfer between two of the bench's accounts.
export function random() {
  const address = () => `assets:a${Math.floor(Math.random() * 10000)}`;
  return transfer(address(), address());
}

// The number of this iteration in its scenario, and the key that goes with it.
export function iteration() {
  return exec.scenario.iterationInTest;
}

export function keyOf(at) {
  return `${RUN}-${exec.scenario.name}-${at}`;
}

export function headers(more = {}, key = __ENV.KEY) {
  return { "Authorization": `Bearer ${key}`, "Content-Type": "application/json", ...more };
}

function parameters(key, waitSeconds, apiKey) {
  const more = { "Idempotency-Key": key };
  if (waitSeconds) more["Prefer"] = `wait=${waitSeconds}`;
  return { headers: headers(more, apiKey), timeout: `${REQUEST_SECONDS_MAX}s`, tags: { name: "POST /v1/intents" } };
}

export function post(key, asked, { waitSeconds = 0, apiKey = __ENV.KEY } = {}) {
  return http.post(`${__ENV.URL}/v1/intents`, JSON.stringify(asked), parameters(key, waitSeconds, apiKey));
}

// Several posts at the same time, of one client.
export function postTogether(asked, { waitSeconds = 0 } = {}) {
  return http.batch(
    asked.map(([key, body]) => ["POST", `${__ENV.URL}/v1/intents`, JSON.stringify(body), parameters(key, waitSeconds)]),
  );
}

// `items` is an array, or JSON that was written already.
export function postBatch(items) {
  const body = typeof items === "string" ? items : JSON.stringify(items);
  return http.post(`${__ENV.URL}/v1/intents/batch`, body, {
    headers: headers(),
    timeout: `${REQUEST_SECONDS_MAX}s`,
    tags: { name: "POST /v1/intents/batch" },
  });
}

// An answer's header, whatever its capitals.
export function header(answer, name) {
  const found = Object.entries(answer.headers || {}).find(([other]) => other.toLowerCase() === name.toLowerCase());
  return found ? found[1] : null;
}

export function isAcknowledged(status) {
  return status === 202 || status === 200;
}

// Count one intent as acknowledged; one that was not is written down.
export function count(key, status, retryAfter) {
  acknowledged.add(isAcknowledged(status) ? 1 : 0);
  failed.add(!isAcknowledged(status));
  if (!isAcknowledged(status)) {
    console.log(JSON.stringify({ kind: "refused", key, status, retry_after: retryAfter }));
  }
}

export function countPost(key, answer) {
  count(key, answer.status, header(answer, "Retry-After"));
  return isAcknowledged(answer.status);
}

// Count each item of a batch by its own status, all by the batch's where that was refused as a whole.
export function countBatch(keys, answer) {
  const items = answer.status === 200 ? answer.json("items") : null;
  keys.forEach((key, at) => count(key, items ? items[at].status : answer.status, header(answer, "Retry-After")));
}

// Write down a whole answer, for suites in which each one is judged: `asked` names what was asked.
export function tell(key, asked, answer) {
  const body = isAcknowledged(answer.status) ? answer.json() : {};
  console.log(
    JSON.stringify({
      kind: "answer",
      key,
      asked,
      status: answer.status,
      intent_id: body.intent_id || null,
      result: body.status || null,
      problem: isAcknowledged(answer.status) ? null : problemOf(answer),
      retry_after: header(answer, "Retry-After"),
      replayed: header(answer, "Idempotent-Replayed") === "true",
    }),
  );
}

function problemOf(answer) {
  try {
    return answer.json("type");
  } catch (error) {
    return `no problem document: ${answer.error || error}`;
  }
}

// Post in setup() what the suite stands on, and stop the whole run where that is not posted.
export function mustPost(key, asked) {
  const answer = post(key, asked, { waitSeconds: 30 });
  tell(key, "setup", answer);
  if (answer.status !== 200 || answer.json("status") !== "posted") {
    exec.test.abort(`${key} was not posted, but answered ${answer.status}: ${answer.body}`);
  }
}
