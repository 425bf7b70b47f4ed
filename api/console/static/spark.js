// Sparklines: an area under a line over the last minutes, drawn by hand.

import { attribute, h, s } from "./dom.js";

const WIDTH = 240;
const HEIGHT = 40;
const SECONDS = 180;

/** A sparkline that is drawn anew by draw(points, now, words): points are [milliseconds, value or null]. */
export function sparkline() {
  const area = s("path", { class: "area" });
  const line = s("path", { class: "line" });
  const picture = s("svg", { viewBox: `0 0 ${WIDTH} ${HEIGHT}`, preserveAspectRatio: "none", "aria-hidden": "true" }, area, line);
  const words = h("span", { class: "visually-hidden" });
  const element = h("div", { class: "spark" }, picture, words);
  return { element, draw: (points, now, said) => draw(area, line, words, points, now, said) };
}

function draw(area, line, words, points, now, said) {
  const shown = points.filter(([time, value]) => time >= now - SECONDS * 1000 && value !== null);
  // What has been watched for a moment only is drawn wider, half a minute at least.
  const from = Math.max(now - SECONDS * 1000, Math.min(shown[0]?.[0] ?? 0, now - 30000));
  const top = Math.max(1e-9, ...shown.map(([, value]) => value));
  const x = (time) => (((time - from) / Math.max(now - from, 1)) * WIDTH).toFixed(1);
  const y = (value) => (HEIGHT - 2 - (value / top) * (HEIGHT - 5)).toFixed(1);
  let edge = "";
  let filled = "";
  let run = [];
  const close = () => {
    if (run.length > 1) {
      const path = run.map(([time, value]) => `${x(time)} ${y(value)}`).join("L");
      edge += `M${path}`;
      filled += `M${x(run[0][0])} ${HEIGHT}L${path}L${x(run.at(-1)[0])} ${HEIGHT}Z`;
    }
    run = [];
  };
  for (const point of shown) {
    if (run.length && point[0] - run.at(-1)[0] > 6000) close(); // nobody watched in between
    run.push(point);
  }
  close();
  attribute(line, "d", edge || `M0 ${HEIGHT - 2}L${WIDTH} ${HEIGHT - 2}`);
  attribute(area, "d", filled || "M0 0");
  if (words.textContent === "") words.textContent = said; // once: a reader is not told each second
}
