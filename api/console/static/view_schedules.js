// Schedules, and one schedule with what became of its occurrences.

import { get, sentence } from "./api.js";
import { facts, h, table, text } from "./dom.js";
import { moment, plural } from "./format.js";
import { pager, pages } from "./view_accounts.js";

const PAGE = 50;
const MARKS = { active: "ok", paused: "wait", ended: "none", posted: "ok", sent: "wait", retrying: "wait", refused: "bad", skipped: "none" };

export function schedules([id]) {
  return id ? one(id) : list();
}

function chip(state) {
  return h("span", { class: "chip", data: { state: MARKS[state] } }, state);
}

function list() {
  const body = h("tbody", { id: "schedules" });
  const beside = h("p", { role: "status" }, "");
  const more = pager();
  const frame = table("Schedules", [["Schedule", ""], ["State", ""], ["Rule", "aside"], ["Next", ""]], body);
  const empty = h("p", { class: "empty", hidden: true }, "There is no schedule. POST /v1/schedules makes one.");
  const load = pages(more, beside, (page) => {
    body.append(...page.items.map((item) => h("tr", {},
      h("td", { class: "text" }, h("a", { href: `#/schedules/${item.schedule_id}` }, item.name || item.schedule_id)),
      h("td", {}, chip(item.state)), h("td", { class: "aside" }, item.rrule ?? "once"),
      h("td", {}, item.current ? `${item.current.local.replace("T", " ")} ${item.zone}` : ""))));
    text(beside, plural(body.childElementCount, "schedule") + (page.next ? " so far" : ""));
    empty.hidden = body.childElementCount > 0;
    frame.hidden = !empty.hidden;
  });
  load("/v1/schedules", { limit: PAGE });
  return { elements: [h("div", { class: "head" }, h("h1", {}, "Schedules"), beside),
    h("section", { class: "card" }, frame, empty, more.element)] };
}

function one(id) {
  const status = h("p", { role: "status" }, "");
  const about = h("article", { class: "story" });
  const body = h("tbody", { id: "occurrences" });
  const beside = h("p", { role: "status" }, "");
  const more = pager();
  const frame = table("Occurrences", [["Number", "number"], ["Local time", ""], ["State", ""], ["Attempts", "number aside"], ["Why", "aside"], ["Intent", ""]], body);
  const title = h("h1", {}, "Schedule");
  const load = pages(more, beside, (page) => {
    body.append(...page.items.map((item) => h("tr", {},
      h("td", { class: "number" }, String(item.number)), h("td", {}, item.local.replace("T", " ")),
      h("td", {}, chip(item.state)), h("td", { class: "number aside" }, String(item.attempts)),
      h("td", { class: "aside" }, [item.reason, item.next_attempt_time && `again ${moment(item.next_attempt_time)}`].filter(Boolean).join(", ")),
      h("td", {}, item.intent_id ? h("a", { href: `#/follow/${item.intent_id}` }, "Follow") : ""))));
    text(beside, plural(body.childElementCount, "occurrence") + (page.next ? " so far" : ""));
  });
  const start = async () => {
    try {
      const item = await get(`/v1/schedules/${encodeURIComponent(id)}`, {});
      text(title, item.name || "Schedule");
      about.replaceChildren(chip(item.state), facts([
        ["rule", item.rrule ?? "once"], ["start", `${item.start.replace("T", " ")} ${item.zone}`],
        ["current occurrence", item.current ? `${item.current.number}: ${item.current.local.replace("T", " ")}, ${item.current.state}` : "none is left"],
        ["missed occurrences", item.missed], ["attempts after a refusal", String(item.retry.times)],
        ["legs", item.intent.legs.map((leg) => `${leg.direction} ${leg.account} ${leg.amount_minor} ${leg.currency}`).join("; ")],
        ...(item.trouble ? [["trouble", item.trouble]] : [])]));
      load(`/v1/schedules/${encodeURIComponent(id)}/occurrences`, { limit: PAGE });
    } catch (error) {
      text(status, sentence(error));
    }
  };
  start();
  return { elements: [h("div", { class: "head" }, title, status), h("section", { class: "card" }, about),
    h("div", { class: "head" }, h("h2", {}, "Occurrences"), beside),
    h("section", { class: "card" }, frame, more.element)] };
}
