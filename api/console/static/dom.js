// Elements without markup in strings: nothing that a ledger holds can become an element.

const SVG = "http://www.w3.org/2000/svg";

// Control characters, format characters, lone surrogates, and separators of lines and paragraphs. Joiners and white space
// are harmless on a page. runtime/outside_text.py has the same rule, and a test holds the two together.
const UNSHOWN = /(?![\u200c\u200d\n\t])[\p{Cc}\p{Cf}\p{Cs}\p{Zl}\p{Zp}]/gu;

/** Text from outside with each character that a page would obey, or hide, as its number: \x1b, \u202e. */
export function printable(value) {
  return value.replace(UNSHOWN, (sign) => {
    const number = sign.codePointAt(0).toString(16);
    if (number.length <= 2) return { "\r": "\\r" }[sign] ?? `\\x${number.padStart(2, "0")}`;
    return number.length <= 4 ? `\\u${number.padStart(4, "0")}` : `\\U${number.padStart(8, "0")}`;
  });
}

function shown(child) {
  return typeof child === "string" ? printable(child) : child;
}

function put(element, properties, children) {
  for (const [name, value] of Object.entries(properties ?? {})) {
    if (value === undefined || value === null || value === false) continue;
    if (name.startsWith("on")) element.addEventListener(name.slice(2), value);
    else if (name === "data") Object.assign(element.dataset, value);
    else element.setAttribute(name, value === true ? "" : name === "value" ? value : shown(value));
  }
  element.append(...children.flat(3).filter((child) => child !== null && child !== undefined && child !== false).map(shown));
  return element;
}

/** An HTML element: h("p", {class: "note", onclick}, "text", child). */
export function h(name, properties, ...children) {
  return put(document.createElement(name), properties, children);
}

/** An SVG element. */
export function s(name, properties, ...children) {
  return put(document.createElementNS(SVG, name), properties, children);
}

/** Sets a text only where it differs, so that selections and readers are left alone. */
export function text(node, value) {
  const wanted = printable(String(value));
  if (node.textContent !== wanted) node.textContent = wanted;
}

/** Sets an attribute only where it differs; null takes it away. */
export function attribute(node, name, value) {
  if (value === null) node.removeAttribute(name);
  else if (node.getAttribute(name) !== shown(String(value))) node.setAttribute(name, shown(String(value)));
}

/** A mark that says in words what its colour says too: "ok", "wait", "bad" or "none". */
export function mark(state, words) {
  const paths = { ok: "M3.5 8.5l3 3 6-7", bad: "M4 4l8 8M12 4l-8 8", wait: "M8 4v4l2.5 2", none: "M4 8h8" };
  return h("span", { class: "mark", data: { state } },
    s("svg", { viewBox: "0 0 16 16", "aria-hidden": "true" }, s("path", { d: paths[state] })),
    h("span", { class: "visually-hidden" }, words ?? { ok: "holds", bad: "fails", wait: "waits", none: "unknown" }[state]));
}

/** Turns a mark into another one. */
export function remark(node, state, words) {
  if (node.dataset.state === state && words === undefined) return;
  const next = mark(state, words);
  if (node.dataset.state !== state) node.firstChild.replaceWith(next.firstChild);
  text(node.lastChild, next.lastChild.textContent);
  node.dataset.state = state;
}

/** A table's frame; columns are [title, class]. */
export function table(caption, columns, body, footer) {
  return h("div", { class: "scroll", tabindex: "0", role: "region", "aria-label": caption },
    h("table", {}, h("caption", { class: "visually-hidden" }, caption),
      h("thead", {}, h("tr", {}, columns.map(([title, kind]) => h("th", { scope: "col", class: kind }, title)))),
      body, footer));
}

/** Titles and values, one under the other. */
export function facts(pairs) {
  return h("dl", { class: "facts" }, pairs.filter(([, value]) => value !== null && value !== undefined && value !== "")
    .map(([title, value, kind]) => h("div", {}, h("dt", {}, title), h("dd", { class: kind }, value))));
}
