// A histogram: bars with a name and a number. Used by datasets and usage. Pure.

import { el, foreign } from "./dom.js";
import { number } from "./words.js";

/** `bars`: [{name, count, note}]; the longest is as wide as there is room. */
export function histogram(title, bars) {
  const most = Math.max(...bars.map(({ count }) => count), 1);
  return el("section", {}, el("h2", {}, title), el("ol", { class: "bars" }, bars.map(({ name, count, note }) => {
    const bar = el("i", { class: "bar" });
    bar.style.setProperty("--share", (count / most).toFixed(4));
    return el("li", {}, foreign(name, 60), bar, el("span", {}, number(count), note && ` · ${note}`));
  })));
}
