// The aliases of a name: where they point, pointed before, and how to move one. Part of a version's
// view. Invariant: an alias is moved only from where it was seen to point (`If-Match`), so that two
// people never undo each other unknowingly.

import { get, part, query, request } from "./api.js";
import { el, foreign, isDone, put } from "./dom.js";
import { promotion } from "./promotion.js";
import { ago } from "./words.js";

const HISTORY_SHOWN = 6;
const MOST = 100;

/** A card; `changed()` is called after an alias was moved. */
export function aliasesOf(kind, version, life, changed) {
  const path = `api/v1/${kind}/${part(version.name)}/aliases`;
  const said = el("div", { "aria-live": "polite" });
  const list = el("div", { class: "grid" });
  const fresh = el("input", { "aria-label": "New alias", placeholder: "new alias, such as live", maxlength: 64, required: true });
  const form = el("form", { class: "fields", onsubmit: (event) => {
    event.preventDefault();
    move(fresh.value.trim(), version.version, { "if-none-match": "*" }).then((isMade) => isMade && (fresh.value = ""));
  } }, fresh, el("button", { type: "submit" }, `Let it point to ${version.version}`));

  async function load() {
    const [words, numbers] = await Promise.all([
      get(path, { signal: life }),
      get(query(`api/v1/${kind}`, { name: version.name, limit: MOST }), { signal: life }),
    ]);
    const all = await Promise.all(words.data.map(async ({ alias }) => {
      const reply = await request("GET", `${path}/${part(alias)}`, { signal: life });
      return { ...(await reply.json()), tag: reply.headers.get("etag") };
    }));
    put(list, !all.length && el("p", { class: "faint" }, "None yet. The form below makes the first one."), all.map((alias) => row(alias, numbers.data.map((each) => each.version))));
  }

  function row({ alias, version: now, history, tag }, numbers) {
    const choice = el("select", { "aria-label": `Version of ${alias}`, "data-key": `to-${alias}` },
      numbers.map((n) => el("option", { value: n, selected: n === version.version }, n)));
    return el("div", { class: "alias" },
      el("b", {}, foreign(alias, 60)), el("span", {}, "points to ", el("b", {}, now)),
      el("label", {}, "move it to ", choice),
      el("button", { type: "button", "data-key": `move-${alias}`, onclick: () => move(alias, Number(choice.value), { "if-match": tag }) }, "Move"),
      el("span", { class: "faint" }, history.slice(0, HISTORY_SHOWN)
        .map(({ ref, set_at: at }) => `${ref.split("@").at(-1)} since ${ago(at)}`).join(", ")));
  }

  async function move(alias, to, headers) {
    put(said);
    const isMoved = await isDone(said, life, async () => {
      await request("PUT", `${path}/${part(alias)}`, { body: { version: to }, headers });
      put(said, el("p", {}, el("b", {}, foreign(alias, 60)), ` points to ${to} now.`));
      await changed();
    });
    await again();
    return isMoved;
  }

  /** Also where somebody else was faster. */
  async function again() {
    if (!life.aborted) await isDone(list, life, load);
  }

  isDone(said, life, load);
  return el("section", { class: "card" }, el("h2", {}, "Aliases of ", foreign(version.name, 60)), list, said, form,
    kind === "models" && promotion(version, life, async () => { await changed(); await again(); }));
}
