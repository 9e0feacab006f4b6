// Promotion: an alias takes a version that evaluations have found good enough. A part of a model's
// aliases. Invariant: the server judges; what it says is shown in its own words, yes or no.

import { part, request } from "./api.js";
import { el, foreign, isDone, put } from "./dom.js";

/** A form; `promoted()` is called when an alias was moved. */
export function promotion({ name, version }, life, promoted) {
  const said = el("div", { "aria-live": "polite" });
  const alias = el("input", { required: true, maxlength: 32, value: "live", spellcheck: "false" });
  const worse = el("input", { type: "number", min: 0, max: 100, step: "any", value: 0 });
  return el("form", { "aria-label": "Promotion", onsubmit: (event) => {
    event.preventDefault();
    put(said);
    isDone(said, life, async () => {
      const path = `api/v1/models/${part(name)}/aliases/${part(alias.value.trim())}/promote`;
      const reply = await request("POST", path, { body: { version, max_worse_percent: worse.valueAsNumber || 0 } });
      const { id, reason } = await reply.json();
      await promoted();
      put(said, el("p", {}, el("b", {}, foreign(id, 120)), ` points to ${version} now: `, foreign(reason)));
    });
  } }, el("p", { class: "faint" }, "Or let evaluations decide: beside what the alias points to now, or, where it is new, beside xz."),
  el("div", { class: "fields" },
    el("label", {}, "Alias", alias), el("label", {}, "Let through, % worse", worse),
    el("button", { type: "submit" }, `Promote ${version} if it is good enough`)), said);
}
