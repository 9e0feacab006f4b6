// A list that is asked for again and again, page by page, and the words that choose what is in it.
// Used by the views that show one. Invariant: it is drawn anew only where something has changed, so
// that what somebody is about to do stays as it is.

import { every, pages } from "./api.js";
import { el, problem, put } from "./dom.js";

const PAGE = 50;

/**
 * Keep a list in `box`: `draw(items, beside)` makes it of the items at `path`, asked for with what
 * `values()` gives, and of what `more(items)` fetches beside them. Returns how to begin anew.
 */
export function listed(box, life, ms, path, { values = () => ({}), more = () => null, draw }) {
  let n = 1;
  let shown = "";
  const tell = (error) => { shown = ""; put(box, problem(error)); };

  async function load() {
    const asked = JSON.stringify(values());
    const { data, hasMore } = await pages(path, { limit: PAGE, ...values() }, n, life);
    const beside = await more(data);
    if (asked !== JSON.stringify(values())) return;
    const news = JSON.stringify([asked, data, beside, hasMore, Math.floor(Date.now() / 60_000)]);
    if (news === shown) return;
    shown = news;
    put(box, draw(data, beside), hasMore && el("button", {
      type: "button", "data-key": "more", onclick: () => { n += 1; load().catch(tell); },
    }, "Older ones"));
  }

  every(ms, life, load, tell);
  return () => { n = 1; return load().catch(tell); };
}

/** Words of which one is chosen, the first one at first; "" is shown as "all". */
export function choice(label, words, chosen) {
  let now = words[0];
  const element = el("div", { class: "chips", role: "group", "aria-label": label });
  const draw = () => put(element, words.map((word) => el("button", {
    type: "button", "data-key": `choice-${word}`, "aria-pressed": String(word === now),
    onclick: () => { now = word; draw(); chosen(); },
  }, word || "all")));
  draw();
  return { element, get value() { return now; } };
}
