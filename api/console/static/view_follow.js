// One intent from HTTP to its signed proof; what is still to come fills in by itself.

import { ask, get, intentIdOf, Refusal, sentence } from "./api.js";
import { facts, h, mark, table } from "./dom.js";
import { amount, count, moment, plural } from "./format.js";
import { listen, live } from "./live.js";
import { STEPS, verify } from "./proof.js";

const INTENT = /([0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12})(?:\?(.*))?$/i;
const LOOKS_MAX = 60; // of an intent that is not settled, one with each pulse

export function follow([intentId], query) {
  const field = h("input", { name: "intent", autocomplete: "off", spellcheck: "false", required: true,
    placeholder: "Intent id, idempotency key, or Location", value: intentId ?? "" });
  const form = h("form", {
    class: "fields",
    onsubmit: async (event) => {
      event.preventDefault();
      const asked = field.value.trim();
      const match = INTENT.exec(asked);
      const found = match ? match[1].toLowerCase() : live.hello ? await intentIdOf(live.hello.tenant, asked) : null;
      if (found) location.hash = `#/follow/${found}${match?.[2] ? `?${match[2]}` : ""}`;
    },
  }, h("label", { class: "grow" }, "Intent id or idempotency key", field), h("button", { class: "primary", type: "submit" }, "Follow"));
  const result = h("div", { id: "result" });
  const head = h("div", { class: "head" }, h("h1", {}, "Follow an intent"), h("p", {}, "from HTTP to its signed proof"));
  const elements = [head, h("div", { class: "stack" }, h("section", { class: "card" }, form), result)];
  if (!intentId) {
    result.append(h("section", { class: "card" }, h("p", { class: "empty" },
      "Its way through Kafka, journal, relay, reconciliation and audit is shown, and its proof is verified here, in this browser.")),
    );
    return { elements };
  }
  const journey = new Journey(intentId, query, result);
  journey.look();
  return { elements, leave: listen(() => journey.look()) };
}

class Journey {
  constructor(intentId, query, result) {
    this.intentId = intentId;
    this.parameters = { partition: query.get("partition"), offset: query.get("offset") };
    this.result = result;
    this.looks = 0;
    this.busy = false;
    this.said = "";
    Object.assign(this, { intent: null, row: null, proof: null, refusal: "", pendingProof: "", checkpointSeen: null });
  }

  /** Asks for what is still missing, and shows it where something is new. One look at a time. */
  async look() {
    if (this.busy) return;
    this.busy = true;
    try {
      if (this.intent?.receipt.seq === undefined && this.looks < LOOKS_MAX) await this.ask();
      if (this.intent?.receipt.seq !== undefined && this.row === null) this.row = await this.journalRow();
      if (this.wantsProof()) await this.prove();
      this.show();
    } finally {
      this.busy = false;
    }
  }

  async ask() {
    this.looks += 1;
    try {
      this.intent = await get(`/v1/intents/${encodeURIComponent(this.intentId)}`, this.parameters);
      this.refusal = "";
    } catch (error) {
      this.refusal = sentence(error);
      if (error instanceof Refusal && error.status !== 404 && error.status < 500) this.looks = LOOKS_MAX;
    }
  }

  async journalRow() {
    const { lane, seq } = this.intent.receipt;
    try {
      return await get(`/v1/journal/${lane}/${seq}`);
    } catch (error) {
      return { refused: sentence(error) };
    }
  }

  wantsProof() {
    if (this.intent?.receipt.seq === undefined || this.proof !== null) return false;
    const checkpoint = live.pulse?.checkpoint?.checkpoint ?? null;
    if (this.pendingProof && checkpoint === this.checkpointSeen) return false;
    this.checkpointSeen = checkpoint;
    return true;
  }

  async prove() {
    try {
      const text = await (await ask(`/v1/intents/${encodeURIComponent(this.intentId)}/proof`)).text();
      this.pendingProof = "";
      this.proof = await verified(text, { intentId: this.intentId, hash: this.intent.receipt.hash });
    } catch (error) {
      this.pendingProof = sentence(error);
      if (error instanceof Refusal && error.status !== 404 && error.status < 500) this.proof = { refused: error.message };
    }
  }

  show() {
    const lane = live.pulse?.lanes.find((item) => item.lane === this.intent?.receipt.lane);
    const seq = this.intent?.receipt.seq;
    const passed = ["relayed", "reconciled", "audited"].map((name) => (lane && seq !== undefined && lane[name] !== null ? lane[name] > seq : null));
    const said = JSON.stringify([this.intent, this.row, this.refusal, this.pendingProof, this.proof !== null, passed]);
    if (said === this.said) return;
    this.said = said;
    const open = this.result.querySelector("details")?.open ?? true;
    this.result.replaceChildren(h("section", { class: "card" }, this.intent === null ? this.unknown() : this.path(passed)));
    const details = this.result.querySelector("details");
    if (details) details.open = open;
  }

  unknown() {
    return h("p", { class: "empty", role: "status" }, this.refusal || "Looking it up.");
  }

  path([relayed, reconciled, audited]) {
    const { intent } = this;
    const isSettled = intent.receipt.seq !== undefined;
    const state = (is) => (is === null ? "none" : is ? "ok" : "wait");
    return h("ol", { class: "path" },
      step("http", "ok", "Accepted over HTTP", intent.status, facts([["Intent", this.intentId, "hash"],
        ["Idempotency key", intent.idempotency_key, "mono"], ["Type", intent.type], ["Reverses", intent.reverses, "mono"], ["Reference", intent.reference]])),
      step("kafka", "ok", "On Kafka", intent.receipt.topic, facts([["Partition", count(intent.receipt.partition)], ["Offset", count(intent.receipt.offset)]])),
      step("journal", isSettled ? (intent.status === "rejected" ? "bad" : "ok") : "wait", "Journalled", this.verdict(), this.journal()),
      step("relay", state(relayed), "Relayed", relayed ? "on ledger.journal" : "to ledger.journal"),
      step("reconciled", state(reconciled), "Reconciled", reconciled ? "it is what was asked, and the balances agree" : "held against what was asked"),
      step("audited", state(audited), "Audited", audited ? "its hash follows from the one before" : "its hash is recomputed"),
      this.checkpoint(), this.proofStep());
  }

  verdict() {
    const { intent } = this;
    if (intent.receipt.seq === undefined) return "Kafka has it; it will be settled";
    return intent.status === "rejected" ? `rejected: ${intent.reason.replaceAll("_", " ")}${intent.detail ? `, ${intent.detail}` : ""}` : `posted ${moment(intent.booked_time)}`;
  }

  journal() {
    const { intent, row } = this;
    if (intent.receipt.seq === undefined) return null;
    return [facts([["Lane", count(intent.receipt.lane)], ["Seq", count(intent.receipt.seq)], ["Booked", moment(intent.booked_time)],
      ["Value date", intent.value_time ? moment(intent.value_time) : null],
      ["Previous hash", row?.previous_hash ?? row?.refused, row?.previous_hash ? "hash" : ""], ["Hash", intent.receipt.hash, "hash"]]),
    intent.legs?.length ? h("div", { class: "inner" }, table("Legs", [["Account", ""], ["Debit", "number"], ["Credit", "number"], ["Currency", ""]],
      h("tbody", {}, intent.legs.map((leg) => h("tr", {},
        h("td", { class: "text" }, h("a", { href: `#/accounts/${leg.account}?currency=${leg.currency}` }, leg.account)),
        ["debit", "credit"].map((side) => h("td", { class: "number" }, leg.direction === side ? amount(leg.amount, leg.amount_minor) : "")),
        h("td", {}, leg.currency)))))) : null];
  }

  checkpoint() {
    const found = this.proof?.checkpoint;
    if (!found) return step("checkpoint", this.proof?.refused ? "none" : "wait", "Under a signed checkpoint", this.proof?.refused ? "" : this.pendingProof || "asked for");
    return step("checkpoint", "ok", "Under a signed checkpoint", moment(found.signed_time / 1000), facts([["Number", count(found.checkpoint)],
      ["Key", found.key_id, "mono"], ["Lanes", plural(found.lanes.length, "lane")], ["Root", found.root, "hash"]]));
  }

  proofStep() {
    const { proof } = this;
    if (proof === null) return step("proof", "wait", "Proof verified in this browser", "after its checkpoint");
    if (proof.refused) return step("proof", "bad", "There is no proof", proof.refused);
    return step("proof", proof.holds ? "ok" : "bad", proof.holds ? "Proof verified in this browser" : "The proof does not hold",
      `${proof.steps.filter((one) => one.state === "ok").length} of ${proof.steps.length} steps hold`, checks(proof.steps), download(this.intentId, proof.text));
  }
}

function step(name, state, title, beside, ...more) {
  return h("li", { data: { step: name, state } }, mark(state), h("div", {},
    h("header", {}, h("h2", {}, title), h("p", {}, beside)), more));
}

function checks(steps) {
  return h("div", { class: "inner" }, h("ol", { class: "checks" }, steps.map((one) =>
    h("li", { data: { state: one.state } }, mark(one.state), h("div", {}, h("span", {}, one.name),
      one.detail ? h("p", { class: /^[0-9a-f]{64}$/.test(one.detail) ? "mono" : "" }, one.detail) : null)))));
}

function download(intentId, text) {
  return h("p", {}, h("button", {
    class: "plain", type: "button",
    onclick: () => {
      const url = URL.createObjectURL(new Blob([text], { type: "application/json" }));
      h("a", { href: url, download: `proof-${intentId}.json` }).click();
      URL.revokeObjectURL(url);
    },
  }, "Save the proof"), h("span", { class: "soft" }, " and check it anywhere: ledgerline audit check"));
}

/** The proof with its steps; a browser that cannot compute says so. */
async function verified(text, expected) {
  if (!globalThis.crypto?.subtle) {
    const detail = "This page must be loaded over https, or from this machine, for the browser to compute hashes.";
    return { text, holds: false, steps: STEPS.map((name, place) => ({ name, state: place ? "none" : "bad", detail: place ? "" : detail })) };
  }
  const keys = (await get("/v1/signing-keys")).items.map((item) => ({ pem: item.public_key, source: "as this ledger names it" }));
  const { holds, steps, proof } = await verify(text, expected, keys);
  return { text, holds, steps, checkpoint: proof.checkpoint };
}
