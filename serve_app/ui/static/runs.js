// The list of runs, by phase, newest first. A view. Runs that are ticked can be compared.

import { every, pages, part } from "./api.js";
import { el, foreign, problem, put, table } from "./dom.js";
import { ago } from "./words.js";

const POLL_MS = 3000;
const PHASES = ["", "queued", "running", "paused", "succeeded", "failed", "cancelled"];
const PAGE = 50;

export function runsView(main, life) {
  const chosen = new Set();
  let phase = "";
  let n = 1;
  let shown = "";
  const box = el("div", { class: "card" });
  const compare = el("button", { type: "button", onclick: () => {
    location.hash = `#/compare/${[...chosen].map(part).join(",")}`;
  } });
  const chips = el("div", { class: "chips", role: "group", "aria-label": "Phase" });
  const drawChips = () => put(chips, PHASES.map((name) => el("button", {
    type: "button", "data-key": `phase-${name}`, "aria-pressed": String(name === phase),
    onclick: () => { phase = name; n = 1; drawChips(); load().catch(tell); },
  }, name || "all")));
  const drawCompare = () => {
    compare.textContent = chosen.size ? `Compare ${chosen.size}` : "Compare";
    compare.disabled = chosen.size < 2;
  };
  const tell = (error) => { shown = ""; put(box, problem(error)); };

  async function load() {
    const asked = phase;
    const { data: runs, hasMore } = await pages("api/v1/runs", { phase, limit: PAGE }, n, life);
    if (asked !== phase) return;
    const news = JSON.stringify([runs, hasMore, Math.floor(Date.now() / 60_000)]);
    if (news === shown) return;
    shown = news;
    put(box, table("Runs", ["Run", "Compare", "Phase", "Kind", "Changed", "Id"], runs.map(row), {
      keys: runs.map((run) => run.id),
      empty: phase ? `No run is ${phase}.` : "No runs yet. Begin one with `mulm train examples/demo.yaml`.",
    }), hasMore && el("button", { type: "button", "data-key": "more", onclick: () => { n += 1; load().catch(tell); } }, "Older ones"));
  }

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

  drawChips();
  drawCompare();
  main.append(el("div", { class: "head" }, el("h1", { tabindex: "-1" }, "Runs"), chips, compare), box);
  every(POLL_MS, life, load, tell);
}

/** How a run stands, as a word with a colour. */
export function badge({ phase, is_living: isLiving }) {
  return el("span", { class: `badge ${phase}${isLiving ? " living" : ""}` }, phase);
}
