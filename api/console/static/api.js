// Asking the API, with the operator's key. The key lives in this tab alone (sessionStorage).

const STORED = "ledgerline.key";

export function key() {
  return sessionStorage.getItem(STORED) ?? "";
}

export function keepKey(value) {
  if (value) sessionStorage.setItem(STORED, value);
  else sessionStorage.removeItem(STORED);
}

/**
 * Takes the key out of the address, where `ledgerline up` put it, so that it stays in no history. A tab that has no key
 * uses it; one that has another key keeps that, and gets the new one back to ask about. Else "".
 */
export function takeKeyFromAddress() {
  const match = /^#key=([\w-]+)$/.exec(location.hash);
  if (!match) return "";
  history.replaceState(null, "", `${location.pathname}#/`);
  if (key() && key() !== match[1]) return match[1];
  keepKey(match[1]);
  return "";
}

/** A key's public part, which `ledgerline keys list` shows; its secret is not shown. */
export function keyName(value) {
  return /^llk_([0-9a-f]{16})_/.exec(value)?.[1] ?? "of another form";
}

/** What the API refused: problem details (RFC 9457). */
export class Refusal extends Error {
  constructor(status, problem) {
    super(problem.detail ?? problem.title ?? `The API answered ${status}.`);
    this.status = status;
    this.kind = String(problem.type ?? "").split("/").at(-1);
  }
}

/** The response to a GET; Refusal where it is no success, TypeError where nobody answers. */
export async function ask(path, options = {}) {
  const response = await fetch(path, {
    headers: { Authorization: `Bearer ${key()}` },
    cache: "no-store",
    redirect: "error",
    ...options,
  });
  if (response.ok) return response;
  let problem = {};
  try {
    problem = await response.json();
  } catch (error) {
    problem = { detail: `The API answered ${response.status} ${response.statusText}.`, cause: error };
  }
  throw new Refusal(response.status, problem);
}

/** The JSON of a GET. */
export async function get(path, parameters = {}) {
  const given = Object.entries(parameters).filter(([, value]) => value !== null && value !== undefined && value !== "");
  const query = new URLSearchParams(given).toString();
  return (await ask(query ? `${path}?${query}` : path)).json();
}

/** One sentence for people about whatever went wrong. */
export function sentence(error) {
  if (error instanceof Refusal) return error.message;
  if (error instanceof TypeError) return "The API does not answer.";
  throw error;
}

/** An intent's id from its tenant and idempotency key: UUID version 5 (docs/PROOF.md). */
export async function intentIdOf(tenant, idempotencyKey) {
  const namespace = "caad481a69a259e090048e048d6013ba".match(/../g).map((pair) => parseInt(pair, 16));
  const name = new TextEncoder().encode(`${tenant}\0${idempotencyKey}`);
  const digest = new Uint8Array(await crypto.subtle.digest("SHA-1", new Uint8Array([...namespace, ...name]))).slice(0, 16);
  digest[6] = (digest[6] & 0x0f) | 0x50;
  digest[8] = (digest[8] & 0x3f) | 0x80;
  const hex = Array.from(digest, (byte) => byte.toString(16).padStart(2, "0")).join("");
  return hex.replace(/(.{8})(.{4})(.{4})(.{4})(.{12})/, "$1-$2-$3-$4-$5");
}
