// The trial balance: each class of accounts by currency, both sides equal; and the accounts behind a class.

import { get, sentence } from "./api.js";
import { h, mark, table, text } from "./dom.js";
import { amount, amountOrNothing, count, moment, plural } from "./format.js";
import { pager, pages } from "./view_accounts.js";

const COLUMNS = [["Class and account", ""], ["Debits", "number"], ["Credits", "number"], ["Debit balances", "number"], ["Credit balances", "number"]];
const SIDES = ["debits", "credits", "debit_balances", "credit_balances"];

export function trialBalance() {
  const beside = h("p", { role: "status" }, "");
  const content = h("div", { class: "stack" });
  const load = async () => {
    try {
      const { items } = await get("/v1/reports/trial-balance");
      text(beside, `as of ${moment(Date.now())}`);
      content.replaceChildren(...(items.length ? items.map(currency) : [h("section", { class: "card" }, h("p", { class: "empty" }, "Nothing is posted yet."))]));
    } catch (error) {
      text(beside, sentence(error));
    }
  };
  load();
  return { elements: [h("div", { class: "head" }, h("div", {}, h("h1", {}, "Trial balance"), beside),
    h("button", { type: "button", onclick: load }, "Now")), content] };
}

function currency(item) {
  const body = h("tbody", {});
  for (const row of item.classes) body.append(classRow(item.currency, row));
  return h("section", { class: "card", data: { currency: item.currency } },
    h("header", {}, h("h2", {}, item.currency), h("p", {}, mark(item.is_balanced ? "ok" : "bad", ""), item.is_balanced ? " both sides equal" : " the sides differ")),
    table(`Trial balance in ${item.currency}`, COLUMNS, body,
      h("tfoot", {}, h("tr", {}, h("th", { scope: "row" }, "Total"), cells(item, amount)))));
}

function cells(item, written) {
  return SIDES.map((side) => h("td", { class: "number", data: { side } }, written(item[side], item[`${side}_minor`])));
}

function classRow(code, row) {
  const button = h("button", { type: "button", class: "plain", "aria-expanded": "false" }, row.account_class);
  const element = h("tr", { data: { class: row.account_class } },
    h("th", { scope: "row" }, button, h("span", { class: "soft" }, ` ${plural(row.accounts, "account")}`)), cells(row, amountOrNothing));
  let shown = [];
  button.addEventListener("click", () => {
    const isOpen = button.getAttribute("aria-expanded") === "true";
    button.setAttribute("aria-expanded", String(!isOpen));
    for (const line of shown) line.remove();
    shown = isOpen ? [] : behind(code, row, element);
  });
  return element;
}

/** Rows of the accounts behind a class, and one for the button that shows more. */
function behind(code, row, element) {
  const more = pager();
  const status = h("span", { class: "soft", role: "status" }, "");
  const last = h("tr", {}, h("td", { colspan: "5" }, more.element, status));
  element.after(last);
  const lines = [last];
  const load = pages(more, status, (page) => {
    const found = page.items.map((item) => h("tr", { data: { account: item.address } },
      h("td", { class: "text" }, h("a", { href: `#/accounts/${item.address}?currency=${item.currency}` }, item.address)), cells(item, amountOrNothing)));
    last.before(...found);
    lines.push(...found);
    text(status, `${count(lines.length - 1)} of ${plural(row.accounts, "account")}`);
    last.hidden = page.next === null;
  });
  load("/v1/reports/trial-balance/accounts", { account_class: row.account_class, currency: code, limit: 100 });
  return lines;
}
