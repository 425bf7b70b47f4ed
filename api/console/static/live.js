// The feed: server-sent events by fetch, so that the key goes in a header; it comes back by itself.

import { ask, key, Refusal } from "./api.js";

const STALE_MILLISECONDS = 5000;
const SILENT_MILLISECONDS = 25000;
const PAUSE_MILLISECONDS_MAX = 15000;
const HISTORY_MILLISECONDS = 600000;

/** What is known now. `state`: off, connecting, live, stale, lost or refused. */
export const live = { state: "off", hello: null, pulse: null, points: [], retryAt: 0, reason: "" };

const listeners = new Set();
let running = null;
let wake = () => {};
let lastPulse = 0;

/** Calls back on each change; returns what ends that. */
export function listen(listener) {
  listeners.add(listener);
  return () => listeners.delete(listener);
}

function tell() {
  for (const listener of [...listeners]) listener(live);
}

function become(state, reason = "") {
  live.state = state;
  live.reason = reason;
  tell();
}

/** Begins anew, with the key as it is now. */
export function connect() {
  running?.abort();
  live.hello = live.pulse = null;
  live.points = [];
  if (!key()) {
    running = null;
    become("off");
    return;
  }
  running = new AbortController();
  run(running);
}

/** Does not wait for the next try. */
export function retryNow() {
  wake();
}

async function run(mine) {
  let pause = 500;
  while (!mine.signal.aborted) {
    if (live.state !== "lost") become("connecting");
    const attempt = new AbortController();
    const stop = () => attempt.abort();
    mine.signal.addEventListener("abort", stop);
    try {
      await stream(mine, attempt);
      pause = 500; // it ended in order: the process restarts
    } catch (error) {
      if (mine.signal.aborted) return;
      if (error instanceof Refusal && (error.status === 401 || error.status === 403)) {
        become("refused", error.message);
        return;
      }
      if (!(error instanceof Refusal || error instanceof TypeError || error.name === "AbortError")) throw error;
      live.reason = error instanceof Refusal ? error.message : "";
      if (lastPulse > Date.now() - 60000 && pause > 4000) pause = 1000;
    } finally {
      mine.signal.removeEventListener("abort", stop);
    }
    if (mine.signal.aborted) return;
    pause = Math.min(pause * 2, PAUSE_MILLISECONDS_MAX);
    live.retryAt = Date.now() + pause;
    become("lost", live.reason);
    await new Promise((resolve) => {
      const timer = setTimeout(resolve, pause);
      wake = () => {
        clearTimeout(timer);
        resolve();
      };
    });
  }
}

async function stream(mine, attempt) {
  let silence = setTimeout(() => attempt.abort(), SILENT_MILLISECONDS);
  try {
    const response = await ask("/v1/console/events", {
      headers: { Authorization: `Bearer ${key()}`, Accept: "text/event-stream" },
      signal: attempt.signal,
    });
    const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
    let waiting = "";
    for (;;) {
      const { value, done } = await reader.read();
      if (done) return;
      clearTimeout(silence);
      silence = setTimeout(() => attempt.abort(), SILENT_MILLISECONDS);
      waiting += value;
      const blocks = waiting.split("\n\n");
      waiting = blocks.pop();
      for (const block of blocks) if (!mine.signal.aborted) take(block);
    }
  } finally {
    clearTimeout(silence);
  }
}

function take(block) {
  let name = "message";
  let data = "";
  for (const line of block.split("\n")) {
    if (line.startsWith("event:")) name = line.slice(6).trim();
    else if (line.startsWith("data:")) data += line.slice(5).trimStart();
  }
  if (!data) return;
  const content = JSON.parse(data);
  if (name === "refused") throw new Refusal(content.status, content);
  if (name === "hello") {
    live.hello = content;
    live.points = content.history;
    return;
  }
  if (name !== "pulse") return;
  lastPulse = Date.now();
  const { totals, latency } = content;
  live.points.push([content.time, totals.received, totals.journalled, totals.unposted, totals.unrelayed,
    totals.unreconciled, totals.unaudited, latency?.p50 ?? null, latency?.p99 ?? null]);
  while (live.points.length && live.points[0][0] < content.time - HISTORY_MILLISECONDS) live.points.shift();
  live.pulse = content;
  become("live");
}

setInterval(() => {
  if (live.state === "live" && Date.now() - lastPulse > STALE_MILLISECONDS) become("stale");
  else if (live.state === "stale" || live.state === "lost") tell();
}, 1000);

/** [time, a second] from the points' column: 1 received, 2 journalled. */
export function rates(column) {
  const found = [];
  for (let place = 1; place < live.points.length; place += 1) {
    const [before, after] = [live.points[place - 1], live.points[place]];
    const seconds = (after[0] - before[0]) / 1000;
    const known = before[column] !== null && after[column] !== null && seconds > 0 && seconds < 10;
    found.push([after[0], known ? Math.max(0, (after[column] - before[column]) / seconds) : null]);
  }
  return found;
}

/** How old the newest pulse is, in milliseconds. */
export function pulseAge() {
  return Date.now() - lastPulse;
}
