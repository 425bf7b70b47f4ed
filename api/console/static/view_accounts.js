// Accounts with their balances, and one account's statement with its running balance.

import { get, sentence } from "./api.js";
import { h, table, text } from "./dom.js";
import { amount, amountOrNothing, moment, plural } from "./format.js";

const PAGE = 50;

export function accounts([address], query) {
  return address ? statement(address, query) : list();
}

// ---------------------------------------------------------------------------------------------------- list

function list() {
  const field = h("input", { name: "prefix", autocomplete: "off", spellcheck: "false", placeholder: "users:42:", maxlength: "256", pattern: "[A-Za-z0-9_:\\-]*" });
  const body = h("tbody", { id: "balances" });
  const beside = h("p", { role: "status" }, "");
  const more = pager();
  const frame = table("Accounts and balances", [["Account", ""], ["Class", "aside"], ["Debits", "number aside"], ["Credits", "number aside"], ["Balance", "number"], ["Currency", ""]], body);
  const empty = h("p", { class: "empty", hidden: true }, "No account is open here. One opens with the first intent posted to it.");
  const load = pages(more, beside, (page) => {
    body.append(...page.items.map((item) => h("tr", {},
      h("td", { class: "text" }, h("a", { href: `#/accounts/${item.address}?currency=${item.currency}` }, item.address)),
      h("td", { class: "aside" }, item.account_class), h("td", { class: "number aside" }, amount(item.debits, item.debits_minor)),
      h("td", { class: "number aside" }, amount(item.credits, item.credits_minor)),
      h("td", { class: "number" }, amount(item.balance, item.balance_minor)), h("td", {}, item.currency))));
    text(beside, plural(body.childElementCount, "balance") + (page.next ? " so far" : ""));
    empty.hidden = body.childElementCount > 0;
    frame.hidden = !empty.hidden;
  });
  const start = () => {
    body.replaceChildren();
    load("/v1/balances", { prefix: field.value.trim(), limit: PAGE });
  };
  const form = h("form", {
    class: "fields",
    onsubmit: (event) => {
      event.preventDefault();
      start();
    },
  }, h("label", { class: "grow" }, "Accounts that begin with", field), h("button", { type: "submit" }, "Show"));
  start();
  return { elements: [h("div", { class: "head" }, h("h1", {}, "Accounts"), beside),
    h("section", { class: "card" }, form, frame, empty, more.element)] };
}

// ---------------------------------------------------------------------------------------------------- statement

function statement(address, query) {
  const currency = h("select", { name: "currency" });
  const since = h("input", { type: "date", name: "since" });
  const until = h("input", { type: "date", name: "until" });
  const beside = h("p", {}, "");
  const status = h("p", { role: "status" }, "");
  const closing = h("p", { class: "figure" }, "");
  const body = h("tbody", { id: "lines" });
  const opening = h("td", { class: "number" }, "");
  const more = pager();
  let by = "booking";
  const load = pages(more, status, (page) => {
    if (body.childElementCount === 0) {
      text(closing, `${amount(page.closing_balance, page.closing_balance_minor)} ${page.currency}`);
      text(beside, `${page.account_class}, normal side ${page.normal_direction}`);
    }
    text(opening, amount(page.opening_balance, page.opening_balance_minor));
    body.append(...page.items.map((line) => h("tr", {},
      h("td", { class: "nowrap" }, moment(by === "value" ? (line.value_time ?? line.booked_time) : line.booked_time).slice(0, 19)),
      h("td", { class: "text" }, h("a", { href: `#/follow/${line.intent_id}` }, line.reference || line.type)),
      ["debit", "credit"].map((side) => h("td", { class: "number" }, line.direction === side ? amountOrNothing(line.amount, line.amount_minor) : "")),
      h("td", { class: "number", data: { balance: line.balance_minor } }, amount(line.balance, line.balance_minor)))));
    text(status, plural(body.childElementCount, "entry", "entries") + (page.next ? " so far" : ""));
  });
  const start = () => {
    body.replaceChildren();
    const day = (field, plus) => (field.value ? new Date(Date.parse(field.value) + plus).toISOString() : null);
    load(`/v1/accounts/${encodeURIComponent(address)}/statement`, { currency: currency.value, by, since: day(since, 0), until: day(until, 86400000), limit: PAGE });
  };
  const segments = h("div", { class: "segments", role: "group", "aria-label": "Dates" }, ["booking", "value"].map((name) => h("button", {
    type: "button", "aria-pressed": String(name === by),
    onclick: (event) => {
      by = name;
      for (const button of event.currentTarget.parentElement.children) button.setAttribute("aria-pressed", String(button === event.currentTarget));
      start();
    },
  }, `By ${name} date`)));
  for (const field of [currency, since, until]) field.addEventListener("change", start);
  const form = h("form", { class: "fields", onsubmit: (event) => event.preventDefault() }, h("label", {}, "Currency", currency),
    h("label", {}, "From", since), h("label", {}, "To", until), segments);
  choose(address, query.get("currency"), currency, status, start);
  return { elements: [
    h("div", { class: "head" }, h("div", {}, h("h1", {}, address), beside), h("div", { class: "closing" }, h("p", {}, "Balance"), closing)),
    h("section", { class: "card" }, form, h("header", {}, h("h2", {}, "Statement, the latest first"), status),
      table("Statement", [["Date (UTC)", ""], ["What", ""], ["Debit", "number"], ["Credit", "number"], ["Balance", "number"]], body,
        h("tfoot", {}, h("tr", {}, h("th", { scope: "row", colspan: "4" }, "Before"), opening))), more.element)] };
}

async function choose(address, wanted, select, status, start) {
  try {
    const { items } = await get(`/v1/accounts/${encodeURIComponent(address)}/balances`);
    select.replaceChildren(...items.map((item) => h("option", {}, item.currency)));
    if (items.length === 0) {
      text(status, "Nothing was posted to it yet.");
      return;
    }
    select.value = items.some((item) => item.currency === wanted) ? wanted : items[0].currency;
    start();
  } catch (error) {
    text(status, sentence(error));
  }
}

// ---------------------------------------------------------------------------------------------------- pages

/** The button for what comes after. */
export function pager(title = "Show more") {
  const button = h("button", { type: "button" }, title);
  const element = h("div", { class: "more", hidden: true }, button);
  return { element, button };
}

/** load(path, parameters) shows a first page, and the button those behind it; an answer that came too late is dropped. */
export function pages(more, status, show) {
  let asked = 0;
  let next = null;
  const turn = async (path, parameters) => {
    const mine = (asked += 1);
    more.button.disabled = true;
    try {
      const page = await get(path, parameters);
      if (mine !== asked) return;
      next = page.next;
      show(page);
      more.element.hidden = next === null;
    } catch (error) {
      if (mine === asked) text(status, sentence(error));
    } finally {
      more.button.disabled = false;
    }
  };
  more.button.addEventListener("click", () => turn(next));
  return turn;
}
