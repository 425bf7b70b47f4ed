// An inclusion proof verified here, in the browser, step by step: docs/PROOF.md has the format and the five steps.

export const FORMAT = "ledgerline-proof-1";

const MEMBERS = {
  proof: ["checkpoint", "format", "hash", "lane", "lanes", "previous_hash", "record", "records"],
  record: ["booked_time", "detail", "fingerprint", "idempotency_key", "intent_id", "lane", "legs", "metadata", "outcome",
    "reason", "reference", "reverses", "seq", "source_offset", "source_topic", "tenant", "type", "value_time"],
  lane: ["first_seq", "head", "lane", "next_seq", "records_root"],
  place: ["index", "path", "size"],
  checkpoint: ["checkpoint", "key_id", "lanes", "previous_hash", "root", "signature", "signed_time"],
};
const SPKI_HEADER = "302a300506032b6570032100";

class Refused extends Error {}

/** The steps' names, in order. */
export const STEPS = [
  "The file is a proof, with just the members of its format",
  "It is the proof of this intent, with the hash of its receipt",
  "The record and the hash before it give the record's hash",
  "The record's place in its tree is its place in the lane",
  "Its path leads to the root over the lane's records",
  "The lane's path leads to the root over all lanes",
  "The checkpoint is signed by the key",
];

/**
 * Checks a proof, given as text. `expected`: {intentId, hash} to be found in it, or null. `keys`: [{pem, source}] of public
 * keys that are trusted. Each step comes back as {name, state: ok | bad | none, detail}; `none` was not reached.
 */
export async function verify(text, expected, keys) {
  const steps = STEPS.map((name) => ({ name, state: "none", detail: "" }));
  const proof = {};
  const checks = [
    () => parse(text, proof),
    () => checkSubject(proof, expected),
    () => checkHash(proof),
    () => checkPlace(proof),
    () => checkRecords(proof),
    () => checkLanes(proof),
    () => checkSignature(proof, keys),
  ];
  for (const [place, check] of checks.entries()) {
    try {
      steps[place].detail = (await check()) ?? "";
      steps[place].state = "ok";
    } catch (error) {
      if (!(error instanceof Refused)) throw error;
      steps[place].state = "bad";
      steps[place].detail = error.message;
      if (place === 0) break; // of what has not the form nothing more can be asked
    }
  }
  return { holds: steps.every((step) => step.state === "ok"), steps, proof };
}

function parse(text, proof) {
  let parsed;
  try {
    parsed = JSON.parse(text);
  } catch (error) {
    throw new Refused(`It is no JSON: ${error.message}.`);
  }
  members(parsed, "proof", MEMBERS.proof);
  if (parsed.format !== FORMAT) throw new Refused(`The format is not ${FORMAT}.`);
  members(parsed.record, "record", MEMBERS.record);
  members(parsed.lane, "lane", MEMBERS.lane);
  members(parsed.records, "records", MEMBERS.place);
  members(parsed.lanes, "lanes", MEMBERS.place);
  members(parsed.checkpoint, "checkpoint", MEMBERS.checkpoint);
  if (membersIn(parsed) !== membersOf(text)) throw new Refused("A member stands twice.");
  Object.assign(proof, parsed);
  return FORMAT;
}

function checkSubject(proof, expected) {
  if (expected === null) return `Intent ${proof.record.intent_id}; nothing was asked to compare with.`;
  if (proof.record.intent_id !== expected.intentId) throw new Refused(`It proves another intent, ${proof.record.intent_id}.`);
  if (proof.hash !== expected.hash) throw new Refused("The receipt has another hash than the proof.");
  return `Intent ${proof.record.intent_id}.`;
}

async function checkHash(proof) {
  const computed = await sha256(bytes(proof.previous_hash, "previous_hash"), encode(canonical(proof.record)));
  const hex = hexOf(computed);
  if (hex !== hexOf(bytes(proof.hash, "hash"))) throw new Refused(`It is ${hex}, and the proof says ${proof.hash}.`);
  return hex;
}

function checkPlace({ record, lane, records }) {
  for (const number of [record.lane, record.seq, lane.lane, lane.first_seq, lane.next_seq]) whole(number, "A lane or sequence number");
  if (record.lane !== lane.lane || record.seq < lane.first_seq || record.seq >= lane.next_seq) {
    throw new Refused("The record does not lie in the lane's range.");
  }
  if (records.index !== record.seq - lane.first_seq || records.size !== lane.next_seq - lane.first_seq) {
    throw new Refused("Its place in the tree is another.");
  }
  return `Leaf ${records.index} of ${records.size}: lane ${lane.lane}, seq ${lane.first_seq} to ${lane.next_seq - 1}.`;
}

async function checkRecords({ hash, record, lane, records }) {
  const root = hexOf(await climb(bytes(hash, "hash"), records));
  if (root !== hexOf(bytes(lane.records_root, "records_root"))) throw new Refused(`It leads to ${root}.`);
  if (lane.next_seq === record.seq + 1 && lane.head !== hash) throw new Refused("The lane's head is not its last record.");
  bytes(lane.head, "head");
  return root;
}

async function checkLanes({ lane, lanes, checkpoint }) {
  const root = hexOf(await climb(encode(canonical(lane)), lanes));
  if (root !== hexOf(bytes(checkpoint.root, "root"))) throw new Refused(`It leads to ${root}.`);
  const heads = checkpoint.lanes;
  if (!Array.isArray(heads) || lanes.size !== heads.length || canonical(heads[lanes.index]) !== canonical(lane)) {
    throw new Refused("The checkpoint does not name the lane's head in its place.");
  }
  return root;
}

async function checkSignature({ checkpoint }, keys) {
  const { signature, ...signed } = checkpoint;
  bytes(signed.previous_hash, "previous_hash");
  if (typeof signature !== "string" || !/^[0-9a-f]{128}$/.test(signature)) throw new Refused("The signature is no hex of 64 bytes.");
  for (const { pem, source } of keys) {
    const spki = spkiOf(pem);
    const raw = spki.slice(-32);
    if (hexOf(await sha256(raw)).slice(0, 16) !== signed.key_id) continue;
    const key = await crypto.subtle.importKey("spki", spki, { name: "Ed25519" }, false, ["verify"]);
    const good = await crypto.subtle.verify({ name: "Ed25519" }, key, fromHex(signature), encode(canonical(signed)));
    if (!good) throw new Refused(`The signature is not that of the key ${signed.key_id}.`);
    return `Checkpoint ${signed.checkpoint}, Ed25519 key ${signed.key_id}, ${source}.`;
  }
  throw new Refused(`It was signed by the key ${signed.key_id}, which is not ${keys.length > 1 ? "among those" : "the one"} trusted here.`);
}

/** The root that a leaf and its path give (RFC 9162, 2.1.3.2). */
async function climb(data, { index, size, path }) {
  whole(index, "A leaf's index");
  whole(size, "A tree's size");
  if (index >= size || !Array.isArray(path)) throw new Refused("The leaf lies outside its tree.");
  let [at, last] = [index, size - 1];
  let root = await sha256(new Uint8Array([0]), data);
  for (const step of path) {
    const sibling = bytes(step, "path");
    if (last === 0) throw new Refused("The path is longer than the tree is high.");
    if (at % 2 === 1 || at === last) {
      root = await sha256(new Uint8Array([1]), sibling, root);
      while (at % 2 === 0 && at !== 0) [at, last] = [Math.floor(at / 2), Math.floor(last / 2)];
    } else {
      root = await sha256(new Uint8Array([1]), root, sibling);
    }
    [at, last] = [Math.floor(at / 2), Math.floor(last / 2)];
  }
  if (last !== 0) throw new Refused("The path is shorter than the tree is high.");
  return root;
}

/** Canonical JSON (RFC 8785): names in order of UTF-16 units, texts and numbers as ECMAScript writes them. */
export function canonical(value) {
  if (value === null || typeof value === "boolean") return String(value);
  if (typeof value === "number") return String(whole(value, "A number", -Number.MAX_SAFE_INTEGER));
  if (typeof value === "string") {
    if (!value.isWellFormed()) throw new Refused("A text is not well formed.");
    return JSON.stringify(value);
  }
  if (Array.isArray(value)) return `[${value.map(canonical).join(",")}]`;
  if (value === undefined) throw new Refused("A part is missing.");
  const names = Object.keys(value).sort();
  return `{${names.map((name) => `${canonical(name)}:${canonical(value[name])}`).join(",")}}`;
}

function whole(value, name, least = 0) {
  if (!Number.isSafeInteger(value) || value < least) throw new Refused(`${name} is no whole number that a browser holds.`);
  return value;
}

function members(value, name, wanted) {
  const found = value !== null && typeof value === "object" && !Array.isArray(value) ? Object.keys(value).sort() : [];
  if (found.join() !== wanted.join()) throw new Refused(`The ${name} does not have exactly the members of the format.`);
}

/** How many members all objects have; of the text, where a colon outside of a string stands for each. */
function membersIn(value) {
  if (value === null || typeof value !== "object") return 0;
  const own = Array.isArray(value) ? 0 : Object.keys(value).length;
  return Object.values(value).reduce((total, part) => total + membersIn(part), own);
}

function membersOf(text) {
  return text.replace(/"(?:[^"\\]|\\.)*"/g, "").split(":").length - 1;
}

/** 32 bytes from lower-case hex; no other spelling, so that no part of a proof can be changed unseen. */
function bytes(hex, name) {
  if (typeof hex !== "string" || !/^[0-9a-f]{64}$/.test(hex)) throw new Refused(`${name} is not 32 bytes in lower-case hex.`);
  return fromHex(hex);
}

function fromHex(hex) {
  return new Uint8Array(hex.match(/../g).map((pair) => parseInt(pair, 16)));
}

function hexOf(data) {
  return Array.from(new Uint8Array(data), (byte) => byte.toString(16).padStart(2, "0")).join("");
}

function encode(value) {
  return new TextEncoder().encode(value);
}

async function sha256(...parts) {
  const joined = new Uint8Array(parts.reduce((length, part) => length + part.byteLength, 0));
  let at = 0;
  for (const part of parts) {
    joined.set(new Uint8Array(part), at);
    at += part.byteLength;
  }
  return crypto.subtle.digest("SHA-256", joined);
}

/** The bytes of an Ed25519 public key in PEM (SubjectPublicKeyInfo). */
export function spkiOf(pem) {
  const match = /^-----BEGIN PUBLIC KEY-----([A-Za-z0-9+/=\s]+)-----END PUBLIC KEY-----\s*$/.exec(pem.trim());
  const data = match ? Uint8Array.from(atob(match[1].replace(/\s/g, "")), (character) => character.charCodeAt(0)) : new Uint8Array();
  if (data.length !== 44 || hexOf(data.slice(0, 12)) !== SPKI_HEADER) throw new Refused("The public key is no Ed25519 key in PEM.");
  return data;
}
