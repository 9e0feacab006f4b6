// What is in a dataset: documents as training reads them, histograms, what was dropped and why. The
// cards behind the facts of a version. Statistics read the whole corpus, so they wait until asked.

import { get, part, query } from "./api.js";
import { histogram } from "./bars.js";
import { el, folded, foreign, isDone, put } from "./dom.js";
import { number, size } from "./words.js";

const SHOWN = 4;
const SHOWN_CHARS = 900;

/** Cards for a dataset version. */
export function datasetCards({ id }, life) {
  const path = `api/v1/datasets/${part(id)}`;
  return [preview(path, life), ...statistics(path, life)];
}

function preview(path, life) {
  let seed = 0;
  const list = el("div", { class: "columns wide" });
  const grep = el("input", { type: "search", maxlength: 200, placeholder: "any", "aria-label": "Documents that hold" });
  const split = el("select", { "aria-label": "Split", onchange: () => load() },
    ["", "train", "validation"].map((name) => el("option", { value: name }, name || "both splits")));

  const load = () => isDone(list, life, async () => {
    const asked = query(`${path}/preview`, { n: SHOWN, chars: SHOWN_CHARS, seed, grep: grep.value, split: split.value });
    const { data } = await get(asked, { signal: life });
    put(list, data.length ? data.map(document) : el("p", { class: "faint" }, "No document is like that."));
  });

  load();
  return el("section", { class: "card" },
    el("form", { class: "head", onsubmit: (event) => (event.preventDefault(), load()) },
      el("h2", {}, "Documents"), el("label", { class: "check" }, "that hold", grep), split,
      el("button", { type: "submit" }, "Show"),
      el("button", { type: "button", onclick: () => { seed += 1; load(); } }, "Others")),
    el("p", { class: "faint" }, "Shades part the tokens; ", el("span", { class: "unlearned" }, "what is struck"),
      " is read, but not learned."),
    list);
}

/** One document, token by token. */
function document({ source, name, part: at, row, language, decision, size_bytes: bytes, tokens, n_tokens: n, n_learned: learned, skipped, left }) {
  return el("article", { class: "document" },
    el("p", { class: "faint" }, el("b", {}, decision), " ", foreign(`${source}: ${name} part ${at} row ${row}`, 120),
      language && ` (${language})`, `, ${size(bytes)}, ${number(n)} tokens, ${number(learned)} learned`),
    el("div", { class: "answer", dir: "auto" }, skipped ? "… " : null, tokens.map(token), left ? ` … ${number(left)} more` : null));
}

function token({ id, text, completes, is_special: isSpecial, is_learned: isLearned }, at) {
  const kind = `piece p${at % 2}${isSpecial ? " special" : ""}${isLearned ? "" : " unlearned"}`;
  return el("span", { class: kind, title: `${text.slice(0, 40)} is token ${id}` }, isSpecial ? text : completes);
}

/** Histograms, and for each reason the documents that were dropped for it. */
function statistics(path, life) {
  let isAsked = false;
  const load = async () => {
    if (isAsked) return;
    isAsked = true;
    for (const box of [bars.body, dropped.body]) put(box, el("p", { class: "faint" }, "Reading the corpus …"));
    isAsked = await isDone(bars.body, life, async () => {
      const told = await get(`${path}/stats`, { signal: life });
      put(bars.body, el("div", { class: "columns" }, histogram("Length of documents, bytes", sized(told.lengths)),
        histogram("Length, tokens", sized(told.tokens)), histogram("Languages", sized(told.languages)), histogram("Sources", sized(told.sources))));
      put(dropped.body, el("p", {}, `${number(told.rejected)} dropped beside ${number(told.documents)} kept.`),
        told.reasons.map((bar) => rejects(path, bar, told.rejected, life)));
    });
    if (!isAsked) put(dropped.body, "This could not be read.");
  };
  const [bars, dropped] = ["Statistics", "Dropped"].map((name) => folded(name, load));
  return [bars.element, dropped.element];
}

const sized = (bars) => bars.map(({ name, count, size_bytes: bytes }) => ({ name, count, note: bytes ? size(bytes) : null }));

/** What was dropped for one reason, page by page. */
function rejects(path, bar, all, life) {
  let last = null;
  const list = el("div", { class: "grid" });
  const more = el("button", { type: "button", hidden: true, onclick: () => load() }, "More");
  const load = () => isDone(list, life, async () => {
    const page = await get(query(`${path}/rejects/${part(bar.name)}`, { limit: SHOWN, after: last }), { signal: life });
    last = page.last_id;
    more.hidden = !page.has_more;
    list.append(...page.data.map(reject));
  });
  const name = [foreign(bar.name, 60), ` ${number(bar.count)}`, el("span", { class: "faint" }, ` ${number((100 * bar.count) / all, 3)} %`)];
  const { element, body } = folded(name, () => last === null && load(), {});
  put(body, list, more);
  return element;
}

function reject({ source, name, row, text, left, original }) {
  const said = (document) => el("div", { class: "answer" }, foreign(document.text || "(empty)", 2000), document.left ? " …" : null);
  return el("article", { class: "document" }, el("p", { class: "faint" }, foreign(`${source}: ${name} row ${row}`, 120)),
    said({ text, left }), original && [el("p", { class: "faint" }, "repeats ", foreign(`${original.name} row ${original.row}`, 120)), said(original)]);
}
