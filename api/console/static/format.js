// Numbers and times for people. Amounts are decimal text from the API and are never made into floats.

const COUNT = new Intl.NumberFormat("en-US");

/** 12,345; a dash for what is not known. */
export function count(value) {
  return value === null || value === undefined ? "–" : COUNT.format(value);
}

/** A rate a second: 0, 0.4, 12, 4,400. */
export function rate(value) {
  if (value === null || value === undefined) return "–";
  return value > 0 && value < 9.95 ? value.toFixed(1).replace(/\.0$/, "") : COUNT.format(Math.round(value));
}

/** Seconds as 12 ms, 1.4 s or 3 min. */
export function duration(seconds) {
  if (seconds === null || seconds === undefined) return "–";
  if (seconds < 0.9995) return `${Math.max(0, Math.round(seconds * 1000))} ms`;
  if (seconds < 90) return `${seconds.toFixed(seconds < 10 ? 1 : 0)} s`;
  if (seconds < 5400) return `${Math.round(seconds / 60)} min`;
  return `${Math.round(seconds / 3600)} h`;
}

/** How long ago a time was, in milliseconds since 1970. */
export function age(milliseconds, now = Date.now()) {
  if (milliseconds === null || milliseconds === undefined) return "never";
  const seconds = Math.max(0, (now - milliseconds) / 1000);
  if (seconds < 90) return `${Math.round(seconds)} s ago`;
  if (seconds < 5400) return `${Math.round(seconds / 60)} min ago`;
  if (seconds < 129600) return `${Math.round(seconds / 3600)} h ago`;
  return date(milliseconds);
}

/** 2026-11-21. */
export function date(milliseconds) {
  return new Date(milliseconds).toISOString().slice(0, 10);
}

/** 2026-11-21 09:41:07 UTC, from RFC 3339 or milliseconds. */
export function moment(value) {
  if (value === null || value === undefined) return "–";
  return `${new Date(value).toISOString().slice(0, 19).replace("T", " ")} UTC`;
}

/** Decimal text with its digits in groups of three; the minus is a real one. */
export function amount(decimal, minor) {
  const given = decimal ?? (minor === undefined || minor === null ? null : String(minor));
  if (given === null) return "–";
  const [whole, part] = given.replace("-", "").split(".");
  const grouped = whole.replace(/\B(?=(\d{3})+(?!\d))/g, ",");
  return `${given.startsWith("-") ? "−" : ""}${grouped}${part === undefined ? "" : `.${part}`}`;
}

/** The same, but nothing for nought: an empty cell says it better. */
export function amountOrNothing(decimal, minor) {
  const given = decimal ?? String(minor);
  return /[1-9]/.test(given) ? amount(given) : "";
}

/** 1 break, 2 breaks. */
export function plural(number, one, many = `${one}s`) {
  return `${count(number)} ${number === 1 ? one : many}`;
}
