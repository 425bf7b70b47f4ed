// The frame around the views: key, connection, search, theme, keyboard, and which view is shown.

import { intentIdOf, keepKey, key, keyName, takeKeyFromAddress } from "./api.js";
import { attribute, h, s, text } from "./dom.js";
import { count } from "./format.js";
import { connect, listen, live, pulseAge, retryNow } from "./live.js";
import { accounts } from "./view_accounts.js";
import { breaks } from "./view_breaks.js";
import { follow } from "./view_follow.js";
import { overview } from "./view_overview.js";
import { schedules } from "./view_schedules.js";
import { trialBalance } from "./view_trial_balance.js";

const VIEWS = {
  overview: ["Overview", overview],
  follow: ["Follow an intent", follow],
  accounts: ["Accounts", accounts],
  "trial-balance": ["Trial balance", trialBalance],
  breaks: ["Breaks", breaks],
  schedules: ["Schedules", schedules],
};
const ADDRESS = /^[A-Za-z0-9_-]+(:[A-Za-z0-9_-]+)+$/;
const INTENT = /^(?:.*\/v1\/intents\/)?([0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12})(?:\?(.*))?$/i;

const at = (id) => document.getElementById(id);
let leave = () => {};
let offered = ""; // another key, from a link, that nobody has agreed to

// ---------------------------------------------------------------------------------------------------- views

function show(moveFocus) {
  leave();
  leave = () => {};
  const content = at("content");
  if (offered) {
    showAlone("Another key", question());
    return;
  }
  if (!key() || live.state === "refused") {
    document.title = "Ledgerline";
    content.replaceChildren(gate());
    for (const link of at("views").children) attribute(link, "aria-current", null);
    return;
  }
  const [path, query] = location.hash.replace(/^#\/?/, "").split("?");
  const [name, ...rest] = parts(path);
  const chosen = name || "overview";
  if (!Object.hasOwn(VIEWS, chosen)) {
    showAlone("Page not found", notFound());
    return;
  }
  const [title, view] = VIEWS[chosen];
  for (const link of at("views").children) attribute(link, "aria-current", link.dataset.view === chosen ? "page" : null);
  document.title = `${title} · Ledgerline`;
  const shown = view(rest, new URLSearchParams(query ?? ""));
  content.replaceChildren(...shown.elements);
  leave = shown.leave ?? leave;
  if (moveFocus) content.focus({ preventScroll: true });
  window.scrollTo(0, 0);
}

/** The parts of an address; what cannot be decoded is no view's name. */
function parts(path) {
  try {
    return path.split("/").map(decodeURIComponent);
  } catch (error) {
    if (error instanceof URIError) return [path];
    throw error;
  }
}

/** A section that is no view. */
function showAlone(title, section) {
  document.title = `${title} · Ledgerline`;
  at("content").replaceChildren(section);
  for (const link of at("views").children) attribute(link, "aria-current", null);
  section.querySelector("h1").focus();
}

function notFound() {
  return h("section", { class: "card gate" },
    h("h1", { tabindex: "-1" }, "Page not found"),
    h("p", {}, "The console has no page at this address."),
    h("p", {}, h("a", { href: "#/" }, "Go to the overview")));
}

/** Whoever sends a link with a key would else choose whose books this tab shows. */
function question() {
  const answer = (value) => () => {
    offered = "";
    if (value) {
      keepKey(value);
      connect();
    }
    show(true);
  };
  return h("section", { class: "card gate" },
    h("h1", { tabindex: "-1" }, "Use another key?"),
    h("p", {}, "The link that was opened brings the key ", h("code", {}, keyName(offered)), ". This tab uses the key ",
      h("code", {}, keyName(key())), ", and goes on with it unless you say otherwise."),
    h("div", { class: "row" },
      h("button", { type: "button", class: "primary", onclick: answer("") }, "Keep this tab's key"),
      h("button", { type: "button", onclick: answer(offered) }, "Use the link's key")));
}

function gate() {
  const field = h("input", { type: "password", name: "key", autocomplete: "off", spellcheck: "false", required: true });
  const error = h("p", { class: "error", role: "alert" }, live.state === "refused" ? live.reason : "");
  return h("section", { class: "card gate" },
    h("h1", {}, "Ledgerline console"),
    h("p", {}, "Give an API key with the scope ", h("code", {}, "journal:read"), "; with ", h("code", {}, "operations:read"),
      " it sees all tenants. The key stays in this tab."),
    h("form", {
      onsubmit: (event) => {
        event.preventDefault();
        keepKey(field.value.trim());
        connect();
        show(true);
      },
    }, h("label", {}, "API key", field), error, h("button", { class: "primary", type: "submit" }, "Open")));
}

// ---------------------------------------------------------------------------------------------------- connection

const WORDS = { off: "No key", connecting: "Connecting", live: "Live", refused: "Refused" };
let told = "";
let toldBreaks = null;

function showConnection() {
  const { state } = live;
  attribute(at("connection"), "data-state", state);
  let words = WORDS[state];
  if (state === "stale") words = `Stale, ${Math.round(pulseAge() / 1000)} s`;
  if (state === "lost") words = `Disconnected, again in ${Math.max(0, Math.ceil((live.retryAt - Date.now()) / 1000))} s`;
  text(at("connection-text"), words);
  at("retry").hidden = state !== "lost";
  const faults = state === "live" || state === "stale" ? (live.pulse?.faults ?? []) : [];
  at("notice").hidden = faults.length === 0;
  text(at("notice"), faults.join(" "));
  const spoken = { live: "Live again.", lost: "Disconnected.", stale: "Nothing new for some seconds." }[state];
  if (state !== told && spoken && told) text(at("announcement"), spoken);
  if (state !== "connecting") told = state;
  showBreaks();
}

function showBreaks() {
  const found = live.pulse?.breaks;
  const open = found ? found.reduce((total, item) => total + item.breaks, 0) : 0;
  at("breaks-badge").hidden = open === 0;
  text(at("breaks-badge"), count(open));
  if (found && open !== toldBreaks) {
    if (toldBreaks !== null) text(at("announcement"), open ? `${open} breaks are not resolved.` : "All breaks are resolved.");
    toldBreaks = open;
  }
}

// ---------------------------------------------------------------------------------------------------- search

async function search(event) {
  event.preventDefault();
  const field = at("search");
  const asked = field.value.trim();
  if (!asked) return;
  const intent = INTENT.exec(asked);
  if (intent) go(`#/follow/${intent[1].toLowerCase()}${intent[2] ? `?${intent[2]}` : ""}`);
  else if (ADDRESS.test(asked)) go(`#/accounts/${asked}`);
  else if (live.hello) go(`#/follow/${await intentIdOf(live.hello.tenant, asked)}`);
  field.value = "";
}

function go(hash) {
  if (location.hash === hash) show(true);
  else location.hash = hash;
}

// ---------------------------------------------------------------------------------------------------- theme

const THEMES = { system: "as the system", light: "light", dark: "dark" };
const ICONS = {
  system: ["M3 4h10v7H3z", "M6 13.5h4"],
  light: ["M8 5.2a2.8 2.8 0 1 0 0 5.6a2.8 2.8 0 0 0 0-5.6z", "M8 1.5v1M8 13.5v1M1.5 8h1M13.5 8h1M3.4 3.4l.7.7M11.9 11.9l.7.7M3.4 12.6l.7-.7M11.9 4.1l.7-.7"],
  dark: ["M13 9.5A5.5 5.5 0 0 1 6.5 3a5.5 5.5 0 1 0 6.5 6.5z"],
};

function useTheme(theme) {
  attribute(document.documentElement, "data-theme", theme === "system" ? null : theme);
  attribute(at("theme"), "aria-label", `Theme: ${THEMES[theme]}`);
  at("theme").replaceChildren(s("svg", { viewBox: "0 0 16 16", "aria-hidden": "true" }, ICONS[theme].map((d) => s("path", { d }))));
}

function theme() {
  const stored = localStorage.getItem("ledgerline.theme");
  return Object.hasOwn(THEMES, stored) ? stored : "system";
}

// ---------------------------------------------------------------------------------------------------- keyboard

const shortcuts = () => localStorage.getItem("ledgerline.shortcuts") !== "off";

function typed(event) {
  const inField = event.target.closest("input, textarea, select, dialog");
  if (inField || event.ctrlKey || event.metaKey || event.altKey || !shortcuts()) return;
  const link = at("views").children[Number(event.key) - 1];
  if (link) go(link.getAttribute("href"));
  else if (event.key === "/") at("search").focus();
  else if (event.key === "?") showSettings();
  else return;
  event.preventDefault();
}

function showSettings() {
  const dialog = at("settings");
  const check = h("input", { type: "checkbox" });
  check.checked = shortcuts();
  check.addEventListener("change", () => localStorage.setItem("ledgerline.shortcuts", check.checked ? "on" : "off"));
  const keys = [...Array.from(at("views").children, (link, place) => [String(place + 1), VIEWS[link.dataset.view][0]]),
    ["/", "Find an intent or an account"], ["?", "This page"], ["Esc", "Close it"]];
  dialog.replaceChildren(
    h("h2", { id: "settings-title" }, "Keyboard and key"),
    h("div", { class: "keys" }, keys.map(([one, does]) => [h("kbd", {}, one), h("span", {}, does)])),
    h("label", { class: "check" }, check, "Single keys do this where no field has the focus"),
    h("h3", {}, "API key"),
    h("p", { class: "soft" }, live.hello
      ? `Tenant ${live.hello.tenant}; ${live.hello.is_operator ? "sees all tenants" : "sees its own tenant"}. Scopes: ${live.hello.scopes.join(", ")}.`
      : "None is in use."),
    h("div", { class: "row" },
      h("button", {
        type: "button",
        onclick: () => {
          keepKey("");
          dialog.close();
          connect();
          show(true);
        },
      }, "Forget the key"),
      h("button", { type: "button", class: "primary", onclick: () => dialog.close() }, "Done")));
  dialog.showModal();
}

// ---------------------------------------------------------------------------------------------------- start

offered = takeKeyFromAddress();
useTheme(theme());
at("theme").addEventListener("click", () => {
  const names = Object.keys(THEMES);
  const next = names[(names.indexOf(theme()) + 1) % names.length];
  localStorage.setItem("ledgerline.theme", next);
  useTheme(next);
});
at("help").addEventListener("click", showSettings);
at("retry").addEventListener("click", retryNow);
at("skip").addEventListener("click", (event) => {
  event.preventDefault();
  at("content").focus();
});
at("search-form").addEventListener("submit", search);
document.addEventListener("keydown", typed);
addEventListener("hashchange", () => {
  if (location.hash.startsWith("#key=")) {
    offered = takeKeyFromAddress();
    if (!offered) connect();
  }
  show(true);
});
let shownState = "";
listen(() => {
  showConnection();
  if (live.state !== shownState) {
    const gated = (state) => state === "refused" || state === "off";
    if (gated(live.state) && !gated(shownState)) show(false);
    shownState = live.state;
  }
});
connect();
show(false);
