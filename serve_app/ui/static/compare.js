// Several runs in one chart, and where their configs differ. A view; the address names the runs.

import { every, get, part } from "./api.js";
import { Chart } from "./chart.js";
import { cut, el, foreign, problem, put, table } from "./dom.js";
import { pointsOf, spelled } from "./run.js";
import { badge } from "./runs.js";
import { flat, number, plain } from "./words.js";

const POLL_MS = 5000;
const MOST = 6;

export function compareView(main, life, argument = "") {
  const ids = [...new Set(argument.split(","))].filter(Boolean).slice(0, MOST);
  const charts = { loss: new Chart("Loss", { height: 280 }) };
  const drawn = el("section", { class: "charts wide", "aria-label": "Curves" });
  const box = el("div", { class: "card" });
  const differ = el("div", { class: "card" });
  const curves = new Map();

  async function load() {
    const runs = await Promise.all(ids.map((id) => get(`api/v1/runs/${part(id)}`, { signal: life })));
    await Promise.all(runs.filter((run) => run.is_living || !curves.has(run.id)).map(async (run) =>
      curves.set(run.id, (await get(`api/v1/runs/${part(run.id)}/metrics`, { signal: life })).data)));
    const names = new Set([...curves.values()].flat().flatMap(Object.keys));
    for (const name of names) {
      if (name.startsWith("validation_")) charts[name] ??= new Chart(spelled(name), { height: 280 });
    }
    charts.tokens_per_s ??= new Chart("Throughput, tokens/s", { height: 280 });
    for (const [name, chart] of Object.entries(charts)) {
      const series = runs.map((run) => ({ name: told(run, runs), points: pointsOf(curves.get(run.id), name) }));
      if (!series.some(({ points }) => points.length)) continue;
      if (!chart.element.isConnected) drawn.append(chart.element);
      chart.show(series);
    }
    put(box, el("h2", {}, "Runs"), table("Runs", ["Run", "Phase", "Steps", "Loss", "Validation", "Tokens/s"], runs.map((run, at) => row(run, at, curves.get(run.id)))));
    put(differ, el("h2", {}, "Where their configs differ"), differences(runs));
  }

  main.append(el("div", { class: "head" }, el("h1", { tabindex: "-1" }, "Compare"), el("a", { href: "#/runs" }, "all runs")), drawn, box, differ);
  if (ids.length) every(POLL_MS, life, load, (error) => put(box, problem(error)));
  else put(box, "Tick runs in the list to compare them.");
}

/** A run's name, and the end of its id where another has the same name. */
function told(run, runs) {
  const isAlone = runs.filter(({ name }) => name === run.name).length === 1;
  return cut(run.name, 40) + (isAlone ? "" : ` ${run.id.slice(-4)}`);
}

function row(run, at, rows) {
  const last = (wanted) => rows.findLast((each) => typeof each[wanted] === "number")?.[wanted];
  const validation = rows.flatMap(Object.keys).find((name) => name.startsWith("validation_"));
  return [
    el("a", { href: `#/runs/${part(run.id)}`, "data-key": run.id }, el("i", { class: `key s${at % 6}` }), foreign(run.name, 60)),
    badge(run), number(last("step")), number(last("loss")), number(last(validation)), number(last("tokens_per_s")),
  ];
}

function differences(runs) {
  const configs = runs.map((run) => new Map(flat(run.config).map(([name, value]) => [name, plain(value)])));
  const names = [...new Set(configs.flatMap((config) => [...config.keys()]))];
  const rows = names.filter((name) => new Set(configs.map((config) => config.get(name))).size > 1)
    .map((name) => [foreign(name, 80), ...configs.map((config) => foreign(config.get(name) ?? "–", 80))]);
  return table("Configs", ["Key", ...runs.map((run) => foreign(run.name, 40))], rows, { empty: "They do not." });
}
