// Breaks with their story: what was found and by whom, what explained it, what it came to.

import { get, sentence } from "./api.js";
import { facts, h, text } from "./dom.js";
import { age, moment, plural } from "./format.js";
import { listen, live } from "./live.js";
import { pager } from "./view_accounts.js";

const STATES = { "": "All", open: "Open", explained: "Explained", resolved: "Resolved" };
const MARKS = { open: "bad", explained: "wait", resolved: "ok" };
const PAGE = 30;

export function breaks() {
  const status = h("p", { role: "status" }, "");
  const content = h("div", { id: "stories" });
  const more = pager();
  let state = "";
  let next = null;
  let said = null;
  const load = async (path, isMore) => {
    try {
      const page = await get(path, isMore ? {} : { state, limit: PAGE });
      next = page.next;
      const stories = page.items.map(story);
      if (isMore) content.append(...stories);
      else content.replaceChildren(...(stories.length ? stories : [none(state)]));
      more.element.hidden = next === null;
      text(status, summary());
    } catch (error) {
      text(status, sentence(error));
    }
  };
  more.button.addEventListener("click", () => load(next, true));
  const segments = h("div", { class: "segments", role: "group", "aria-label": "State" }, Object.entries(STATES).map(([name, title]) => h("button", {
    type: "button", "aria-pressed": String(name === state),
    onclick: (event) => {
      state = name;
      for (const button of event.currentTarget.parentElement.children) button.setAttribute("aria-pressed", String(button === event.currentTarget));
      load("/v1/breaks", false);
    },
  }, title)));
  const update = () => {
    const counted = JSON.stringify(live.pulse?.breaks ?? null);
    if (counted === said) return;
    said = counted;
    load("/v1/breaks", false);
  };
  update();
  return { leave: listen(update), elements: [
    h("div", { class: "head" }, h("div", {}, h("h1", {}, "Breaks"), status), segments),
    h("section", { class: "card" }, content, more.element)] };
}

function summary() {
  const found = live.pulse?.breaks;
  if (!found) return "";
  const open = found.reduce((total, item) => total + item.breaks, 0);
  const whose = live.hello?.is_operator ? "" : ", of all tenants; those of yours are listed";
  return open ? `${plural(open, "break")} not resolved${whose}` : "None is open";
}

function none(state) {
  return h("p", { class: "empty" }, state ? `None is ${state}.` : "Reconciliation and audit have found no difference.");
}

function story(item) {
  const isResolved = item.state === "resolved";
  return h("article", { class: "story", data: { break: item.break_id, state: item.state }, "aria-label": `${item.kind}: ${item.subject}` },
    h("header", {}, h("span", { class: "chip", data: { state: MARKS[item.state] } }, item.state), h("h2", {}, item.subject),
      h("span", { class: "soft" }, `${item.kind}, found by ${item.found_by}`)),
    h("p", {}, item.detail),
    h("ol", {}, h("li", {}, `Opened ${moment(item.opened_time)}, ${age(Date.parse(item.opened_time))}`),
      item.changed_time === item.opened_time ? null
        : h("li", {}, `${isResolved ? "Resolved" : item.state === "explained" ? "Explained" : "Found again or otherwise"} ${moment(item.changed_time)}`)),
    facts(Object.entries(item.evidence).map(([name, value]) => [name.replaceAll("_", " "), String(value)])),
    item.seq === null ? null : toIntent(item));
}

/** A button to the intent behind a record, where the record is there and of the key's tenant. */
function toIntent({ lane, seq }) {
  const status = h("span", { class: "soft", role: "status" }, "");
  const button = h("button", {
    type: "button",
    class: "plain",
    onclick: async () => {
      try {
        location.hash = `#/follow/${(await get(`/v1/journal/${lane}/${seq}`)).intent_id}`;
      } catch (error) {
        text(status, ` ${sentence(error)}`);
      }
    },
  }, "Follow its intent");
  return h("div", { class: "to" }, button, status);
}
