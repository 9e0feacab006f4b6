// The list of runs, by phase, newest first. A view. Runs that are ticked can be compared.

import { part } from "./api.js";
import { el, foreign, table } from "./dom.js";
import { choice, listed } from "./list.js";
import { ago } from "./words.js";

const POLL_MS = 3000;
const PHASES = ["", "queued", "running", "paused", "succeeded", "failed", "cancelled"];

export function runsView(main, life) {
  const chosen = new Set();
  const box = el("div", { class: "card" });
  const compare = el("button", { type: "button", onclick: () => {
    location.hash = `#/compare/${[...chosen].map(part).join(",")}`;
  } });
  const drawCompare = () => {
    compare.textContent = chosen.size ? `Compare ${chosen.size}` : "Compare";
    compare.disabled = chosen.size < 2;
  };
  const phase = choice("Phase", PHASES, () => again());

  function row(run) {
    const tick = el("input", {
      type: "checkbox", "aria-label": `compare ${run.name.slice(0, 80)}`, "data-key": `tick-${run.id}`,
      checked: chosen.has(run.id), onchange: () => {
        chosen[tick.checked ? "add" : "delete"](run.id);
        drawCompare();
      },
    });
    return [
      el("a", { href: `#/runs/${part(run.id)}`, "data-key": run.id }, foreign(run.name, 80)),
      tick, badge(run), run.kind, el("span", { class: "faint" }, ago(run.updated_at)), el("code", {}, run.id),
    ];
  }

  drawCompare();
  main.append(el("div", { class: "head" }, el("h1", { tabindex: "-1" }, "Runs"), phase.element, compare), box);
  const again = listed(box, life, POLL_MS, "api/v1/runs", {
    values: () => ({ phase: phase.value }),
    draw: (runs) => table("Runs", ["Run", "Compare", "Phase", "Kind", "Changed", "Id"], runs.map(row), {
      keys: runs.map((run) => run.id),
      empty: phase.value ? `No run is ${phase.value}.` : "No runs yet. `mulm train examples/demo.yaml` begins one.",
    }),
  });
}

/** How a run stands, as a word with a colour. */
export function badge({ phase, is_living: isLiving }) {
  return el("span", { class: `badge ${phase}${isLiving ? " living" : ""}` }, phase);
}
