// How good a model is: what was measured of one version, and measuring more. A card behind the facts
// of a model.

import { part, query, request } from "./api.js";
import { el, foreign, isDone, put, table } from "./dom.js";
import { listed } from "./list.js";
import { clock, number } from "./words.js";

const POLL_MS = 3000;

/** Cards for a model version. */
export function modelCards({ id }, life) {
  const said = el("div", { "aria-live": "polite" });
  const list = el("div", { class: "grid" });
  const suites = el("input", { value: "bits_per_byte", required: true, maxlength: 200, spellcheck: "false" });
  const most = el("input", { type: "number", min: 1, step: 1, placeholder: "all" });
  const text = el("input", { placeholder: "its own dataset", maxlength: 128, spellcheck: "false" });
  const form = el("form", { class: "fields", onsubmit: (event) => {
    event.preventDefault();
    put(said);
    isDone(said, life, async () => {
      const body = {
        model: id, suites: suites.value.split(/[\s,]+/).filter(Boolean),
        ...(text.value.trim() ? { dataset: text.value.trim() } : {}), ...(most.value ? { limit: most.valueAsNumber } : {}),
      };
      const reply = await request("POST", "api/v1/evaluations", { body });
      const run = await reply.json();
      put(said, el("p", {}, reply.status === 200 ? "This was measured before: " : "It is being measured: ", linkTo(run.id), "."));
      await again();
    });
  } }, el("label", {}, "Suites", suites), el("label", {}, "Held-out text of", text), el("label", {}, "Items at most", most), el("button", { type: "submit" }, "Measure it"));
  const again = listed(list, life, POLL_MS, query("api/v1/evaluations", { model: id }), {
    draw: (found) => table("Evaluations", ["Run", "When", "Bits per byte", "xz -9e", "Suites"], found.map(row), {
      empty: `None yet. The form below measures it, or \`mulm eval ${id}\`.`,
    }),
  });
  return [el("section", { class: "card" }, el("h2", {}, "Evaluations"), list, form, said)];
}

function row({ id, ended_at: at, result }) {
  return [
    linkTo(id), el("span", { class: "faint" }, clock(at)), number(result.bits_per_byte), number(result.xz_bits_per_byte),
    foreign(Object.entries(result.suites ?? {}).map(([name, { metrics }]) => `${name} ${scores(metrics)}`).join("; ") || "–"),
  ];
}

/** acc 0.58 (0.52 to 0.64) */
function scores(metrics) {
  return Object.entries(metrics).map(([name, { score, interval: [low, high] }]) =>
    `${name} ${number(score)} (${number(low)} to ${number(high)})`).join(", ");
}

function linkTo(id) {
  return el("a", { href: `#/runs/${part(id)}`, "data-key": id }, el("code", {}, id));
}
