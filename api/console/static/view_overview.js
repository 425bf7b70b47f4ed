// Everything at a glance: is it moving, is it behind, and do the books hold.

import { h, mark, remark, table, text } from "./dom.js";
import { age, amount, count, duration, plural, rate } from "./format.js";
import { listen, live, rates } from "./live.js";
import { sparkline } from "./spark.js";

const LAGS = ["unposted", "unrelayed", "unreconciled", "unaudited"];
const CHECKPOINT_LATE_MILLISECONDS = 120000;
// What is behind for a moment only, or by what is posted in ten seconds, is on its way and no reason to look up.
const PULSES_BEHIND = 10;
const SECONDS_BEHIND = 10;

export function overview() {
  const parts = [verdict(), tiles(), books(), lanes()];
  const [head, figures, proofs, progress] = parts;
  const update = () => {
    if (!live.pulse) return;
    for (const part of parts) part.update(live.pulse);
  };
  update();
  const leave = listen(update);
  return {
    leave,
    elements: [head.element, h("div", { class: "stack" }, figures.element,
      h("div", { class: "columns" }, proofs.element, h("div", { class: "stack" }, progress.element, proofs.evidence)))],
  };
}

// ---------------------------------------------------------------------------------------------------- verdict

/** How many records may be on their way: as many as are posted in some seconds. */
function onTheWay(now) {
  return SECONDS_BEHIND * (smooth(rates(2), now, SECONDS_BEHIND) ?? 0);
}

/** Whether a column of the points was above that for as long as many pulses take. */
function isBehind(column, now) {
  const last = live.points.slice(-PULSES_BEHIND);
  const allowed = onTheWay(now);
  return last.length === PULSES_BEHIND && last.every((point) => point[column] > allowed);
}

/** Name -> state of each claim about the books. */
function claims(pulse) {
  const { symmetry, breaks, checkpoint, totals } = pulse;
  const open = breaks?.reduce((total, item) => total + item.breaks, 0);
  const differing = symmetry.filter((sums) => sums.difference_minor !== "0");
  // What nobody posted to needs no new checkpoint.
  const booked = Math.max(...pulse.lanes.map((lane) => lane.booked_time ?? 0));
  const late = checkpoint && booked > checkpoint.signed_time && pulse.time - checkpoint.signed_time > CHECKPOINT_LATE_MILLISECONDS;
  return {
    symmetry: breaks === null ? "none" : differing.length ? "bad" : symmetry.length ? "ok" : "none",
    conservation: pulse.conservation_gap === null ? "none" : pulse.conservation_gap === 0 ? "ok" : "bad",
    chain: totals.unaudited === null ? "none" : breaks?.some((item) => item.kind === "chain" || item.kind === "stored") ? "bad" : isBehind(6, pulse.time) ? "wait" : "ok",
    checkpoint: breaks === null ? "none" : !checkpoint ? "wait" : late ? "wait" : "ok",
    breaks: breaks === null ? "none" : open ? "bad" : "ok",
  };
}

function verdict() {
  const sign = mark("none");
  const title = h("h1", {}, "Waiting for the first figures");
  const beside = h("p", {}, "");
  return {
    element: h("div", { class: "head" }, h("div", { class: "verdict" }, sign, h("div", {}, title, beside))),
    update: (pulse) => {
      const states = Object.values(claims(pulse));
      const state = states.includes("bad") ? "bad" : pulse.faults.length ? "wait" : "ok";
      remark(sign, state);
      text(title, { bad: "The books do not hold", wait: "Something cannot be seen", ok: "The books hold" }[state]);
      const waiting = pulse.totals.unposted;
      text(beside, `${count(pulse.totals.journalled)} of ${plural(pulse.totals.received, "intent")} journalled`
        + (waiting ? `, ${plural(waiting, "waits", "wait")}.` : "."));
    },
  };
}

// ---------------------------------------------------------------------------------------------------- figures

function tile(title, unit) {
  const figure = h("span", {}, "–");
  const beside = h("p", { class: "beside" }, "");
  const spark = sparkline();
  const element = h("section", { class: "card tile", data: { tile: title } }, h("h2", {}, title),
    h("p", { class: "figure" }, figure, unit ? h("small", {}, unit) : null), beside, spark.element);
  return { element, figure, beside, spark };
}

function smooth(points, now, seconds) {
  const recent = points.filter(([time, value]) => value !== null && time > now - seconds * 1000);
  return recent.length ? recent.reduce((total, [, value]) => total + value, 0) / recent.length : null;
}

function most(points, now) {
  return Math.max(0, ...points.filter(([time, value]) => value !== null && time > now - 180000).map(([, value]) => value));
}

function tiles() {
  const received = tile("Received", "a second");
  const posted = tile("Posted", "a second");
  const latency = tile("Accepted to posted", "median");
  const waiting = tile("Waiting to be posted", "intents");
  const flow = (shown, column, now) => {
    const points = rates(column);
    text(shown.figure, rate(smooth(points, now, 5)));
    text(shown.beside, `most ${rate(most(points, now))} in 3 min`);
    shown.spark.draw(points, now, "Graph of the last three minutes.");
  };
  return {
    element: h("div", { class: "tiles" }, received.element, posted.element, latency.element, waiting.element),
    update: ({ time: now, totals }) => {
      flow(received, 1, now);
      flow(posted, 2, now);
      const medians = live.points.map((point) => [point[0], point[7]]);
      const last = live.points.findLast((point) => point[7] !== null && point[0] > now - 180000);
      text(latency.figure, duration(last?.[7]));
      text(latency.beside, last ? `99th ${duration(last[8])}, ${age(last[0], now)}` : "none through this process lately");
      latency.spark.draw(medians, now, "Graph of the median over the last three minutes.");
      const behind = live.points.map((point) => [point[0], point[3]]);
      text(waiting.figure, count(totals.unposted));
      text(waiting.beside, `most ${count(most(behind, now))} in 3 min`);
      waiting.spark.draw(behind, now, "Graph of the last three minutes.");
    },
  };
}

// ---------------------------------------------------------------------------------------------------- books

function claim(name, title) {
  const sign = mark("none");
  const detail = h("p", {}, "");
  const more = h("div", { class: "wide" });
  return { element: h("li", { data: { claim: name } }, sign, h("h3", {}, title), h("div", { class: "wide" }, detail), more), sign, detail, more };
}

function card(id, title, beside, items) {
  return h("section", { class: "card", id }, h("header", {}, h("h2", {}, title), beside),
    h("ul", { class: "proofs" }, items.map((item) => item.element)));
}

function books() {
  const all = {
    symmetry: claim("symmetry", "Debits equal credits"),
    conservation: claim("conservation", "Every intent has one fate"),
    chain: claim("chain", "Hash chains verified"),
    checkpoint: claim("checkpoint", "Signed checkpoint"),
    breaks: claim("breaks", "Breaks"),
  };
  const scope = h("p", {}, "");
  const sums = symmetryTable();
  all.symmetry.more.append(sums.element);
  const equation = h("div", { class: "sum" });
  all.conservation.more.append(equation);
  return {
    element: card("books", "The books", scope, [all.symmetry, all.conservation, all.breaks]),
    evidence: card("evidence", "Evidence", h("p", {}, "by audit, apart from the ledger"), [all.chain, all.checkpoint]),
    update: (pulse) => {
      for (const [name, state] of Object.entries(claims(pulse))) remark(all[name].sign, state);
      text(scope, live.hello?.is_operator ? "all tenants" : `tenant ${live.hello?.tenant}; counts are of all`);
      const { symmetry, fates, checkpoint, totals, breaks } = pulse;
      const differing = symmetry.filter((item) => item.difference_minor !== "0").length;
      text(all.symmetry.detail, symmetry.length
        ? `${plural(symmetry.length, "currency", "currencies")}, ${differing ? `${count(differing)} of them unequal` : "by reconciliation's own sums"}`
        : "Nothing is posted yet.");
      sums.update(symmetry);
      conserve(equation, all.conservation.detail, pulse, fates);
      text(all.chain.detail, totals.unaudited === null ? "Not known." : totals.unaudited === 0
        ? `Up to the last of ${plural(totals.journalled, "record")}.`
        : `Up to the last but ${count(totals.unaudited)} of ${plural(totals.journalled, "record")}.`);
      text(all.checkpoint.detail, checkpoint
        ? `Number ${count(checkpoint.checkpoint)}, ${age(checkpoint.signed_time, pulse.time)}, key ${checkpoint.key_id}.`
        : "None is signed yet.");
      const open = breaks?.reduce((total, item) => total + item.breaks, 0);
      text(all.breaks.detail, breaks === null ? "Not known." : open
        ? breaks.map((item) => `${count(item.breaks)} ${item.kind} ${item.state}, by ${item.found_by}`).join("; ") + "."
        : "None open, none explained.");
    },
  };
}

function conserve(equation, detail, pulse, fates) {
  text(detail, pulse.conservation_gap === 0 ? "Received = fates + in flight, lane by lane" : pulse.conservation_gap === null ? "Not known." : `${plural(pulse.conservation_gap, "record")} unaccounted for`);
  if (fates === null) return;
  const inFlight = pulse.totals.received === null ? null : Math.max(0, pulse.totals.received - Object.values(fates).reduce((total, part) => total + part, 0));
  const parts = [["received", pulse.totals.received, "="], ...Object.entries(fates).map(([name, number]) => [name.replaceAll("_", " "), number, "+"]), ["in flight", inFlight, ""]];
  const said = parts.map(([name, number, next]) => `${count(number)}|${name} ${next}`).join(";");
  if (equation.dataset.said === said) return;
  equation.dataset.said = said;
  equation.replaceChildren(...parts.map(([name, number, next]) => h("span", { data: { fate: name } }, h("b", {}, count(number)), ` ${name} ${next}`)));
}

function symmetryTable() {
  const rows = new Map();
  const body = h("tbody", {});
  const element = table("Debits and credits by currency", [["Currency", ""], ["Debits", "number"], ["Credits", "number"], ["Difference", "number"]], body);
  element.hidden = true;
  return {
    element,
    update: (symmetry) => {
      element.hidden = symmetry.length === 0;
      for (const sums of symmetry) {
        if (!rows.has(sums.currency)) {
          const cells = ["debits", "credits", "difference"].map((name) => h("td", { class: "number", data: { sum: name } }));
          rows.set(sums.currency, cells);
          body.append(h("tr", { data: { currency: sums.currency } }, h("th", { scope: "row" }, sums.currency), cells));
        }
        const [debits, credits, difference] = rows.get(sums.currency);
        text(debits, amount(sums.debits, sums.debits_minor));
        text(credits, amount(sums.credits, sums.credits_minor));
        text(difference, sums.difference_minor === "0" ? "0" : `${amount(null, sums.difference_minor)} minor units`);
        difference.classList.toggle("behind", sums.difference_minor !== "0");
      }
    },
  };
}

// ---------------------------------------------------------------------------------------------------- lanes

function lanes() {
  const rows = new Map();
  const body = h("tbody", {});
  const columns = [["Lane", ""], ["Received", "number"], ["Unposted", "number"], ["Unrelayed", "number"],
    ["Unreconciled", "number"], ["Unaudited", "number"], ["Last booked", "number"]];
  const totals = ["", "", "", "", "", ""].map(() => h("td", { class: "number" }));
  const footer = h("tfoot", {}, h("tr", {}, h("th", { scope: "row" }, "All"), totals));
  return {
    element: h("section", { class: "card", id: "lanes" }, h("header", {}, h("h2", {}, "Lanes"), h("p", {}, "records behind, by stage")),
      table("Lanes", columns, body, footer)),
    update: (pulse) => {
      const allowed = onTheWay(pulse.time);
      for (const lane of pulse.lanes) {
        if (!rows.has(lane.lane)) {
          const cells = ["received", ...LAGS, "booked"].map((name) => h("td", { class: "number", data: { figure: name } }));
          rows.set(lane.lane, cells);
          body.append(h("tr", { data: { lane: lane.lane } }, h("th", { scope: "row" }, String(lane.lane)), cells));
        }
        const cells = rows.get(lane.lane);
        text(cells[0], count(lane.received));
        LAGS.forEach((name, place) => behind(cells[place + 1], lane[name], allowed / pulse.lanes.length));
        text(cells[5], age(lane.booked_time, pulse.time));
      }
      text(totals[0], count(pulse.totals.received));
      LAGS.forEach((name, place) => behind(totals[place + 1], pulse.totals[name], allowed));
    },
  };
}

function behind(cell, records, allowed) {
  text(cell, count(records));
  cell.dataset.pulses = records > allowed ? Number(cell.dataset.pulses ?? 0) + 1 : 0;
  cell.classList.toggle("behind", cell.dataset.pulses >= PULSES_BEHIND);
}
