// One run, live: curves, progress, samples, what happened, the log, its config; pause, resume,
// cancel and fork. A view. Its numbers come from the run's events (`feed`), how it stands from the API.

import { every, get, part, request } from "./api.js";
import { Chart } from "./chart.js";
import { confirmed, el, folded, foreign, isDone, pairs, problem, put, table, titled } from "./dom.js";
import { RunFeed } from "./feed.js";
import { forking } from "./fork.js";
import { badge } from "./runs.js";
import { ago, clock, duration, flat, number, plain } from "./words.js";

const POLL_MS = 3000;
const LOG_LINES = 300;
const MOST_CHARS = 100_000;
const ROWS_SHOWN = 200;
const STEERABLE = new Set(["queued", "preparing", "running", "pausing"]);
const RESUMABLE = new Set(["paused", "failed"]);

export function runView(main, life, id) {
  const feed = new RunFeed(id);
  const view = new View(main, life, id, feed);
  feed.addEventListener("change", () => life.aborted || view.drawFeed(), { signal: life });
  every(POLL_MS, life, () => view.load(), (error) => view.tell(error));
  view.follow();
}

class View {
  #shown = "";
  #isFollowing = false;

  constructor(main, life, id, feed) {
    Object.assign(this, { life, id, feed });
    this.path = `api/v1/runs/${part(id)}`;
    this.title = el("h1", { tabindex: "-1" }, id);
    this.standing = el("span");
    this.acts = el("div", { class: "acts" });
    this.said = el("div", { "aria-live": "polite" });
    this.bar = el("div", { class: "progress" });
    this.facts = el("div");
    this.charts = new Charts();
    this.samples = new Samples();
    this.notes = el("div");
    this.numbers = folded("Numbers", () => this.drawNumbers());
    this.log = folded("Log", () => this.loadLog());
    this.config = folded("Config");
    this.fork = forking(this.path, life);
    main.append(
      el("div", { class: "head" }, this.title, this.standing, this.acts), this.said, this.bar,
      this.charts.element, this.samples.element,
      el("div", { class: "columns" }, el("section", { class: "card" }, el("h2", {}, "What happened"), this.notes),
        el("section", { class: "card" }, el("h2", {}, "Facts"), this.facts)),
      this.numbers.element, this.log.element, this.config.element, this.fork.element,
    );
  }

  async follow() {
    if (this.#isFollowing) return;
    this.#isFollowing = true;
    try {
      await this.feed.follow(this.life);
    } catch (error) {
      this.tell(error);
    }
    this.#isFollowing = false;
  }

  async load() {
    const run = await get(this.path, { signal: this.life });
    if (run.is_living && this.feed.hasEnded) this.follow(); // it was resumed, here or elsewhere
    if (this.log.element.open && run.is_living) this.loadLog();
    const news = JSON.stringify([run, Math.floor(Date.now() / 60_000)]);
    if (news === this.#shown) return;
    this.#shown = news;
    this.run = run;
    this.drawRun(run);
  }

  drawRun(run) {
    titled(run.name);
    put(this.title, foreign(run.name, 120));
    put(this.standing, badge(run));
    put(this.acts, this.#acts(run));
    put(this.said, run.error && problem(run.error));
    put(this.facts, pairs([
      ["id", el("code", {}, run.id)], ["kind", run.kind],
      ["began", `${clock(run.created_at)}, ${ago(run.created_at)}`],
      ...Object.entries(run.references).map(([field, { kind, ref }]) => [field, `${kind} ${ref}`]),
      ...flat(run.result ?? {}).map(([name, value]) => [name, typeof value === "number" ? number(value) : plain(value)]),
    ]));
    put(this.config.body, pairs(flat(run.config).map(([name, value]) => [name, plain(value)])));
    this.fork.draw(run);
    this.drawProgress();
  }

  #acts(run) {
    const act = (name) => () => isDone(this.said, this.life, async () => {
      await request("POST", `${this.path}/${name}`);
      this.#shown = "";
      await this.load();
    });
    const isSteerable = STEERABLE.has(run.phase);
    return [
      isSteerable && run.kind === "train" && el("button", { type: "button", "data-key": "pause", onclick: act("pause") }, "Pause"),
      RESUMABLE.has(run.phase) && !run.is_living && el("button", { type: "button", "data-key": "resume", onclick: act("resume") }, "Resume"),
      (isSteerable || run.phase === "paused") && confirmed("Cancel", "Really cancel?", act("cancel"), { "data-key": "cancel" }),
    ];
  }

  drawFeed() {
    this.charts.draw(this.feed.sorted());
    this.samples.draw(this.feed.samples);
    this.drawProgress();
    put(this.notes, !this.feed.notes.length && el("p", { class: "faint" }, "Nothing yet. It is told here as it happens."), el("ol", { class: "notes" }, this.feed.notes.slice(-60).reverse().map(({ kind, data, time }) =>
      el("li", {}, el("time", {}, clock(time)), " ", el("b", {}, kind), " ", foreign(words(kind, data))))));
    if (this.numbers.element.open) this.drawNumbers();
  }

  drawProgress() {
    const told = this.feed.progress;
    if (!told) return;
    const { stage, done = 0, total, unit = "", rate_per_s: rate, eta_s: left } = told;
    const isLive = this.run?.is_living;
    put(this.bar,
      el("progress", { max: total || 1, value: total ? Math.min(done, total) : 0, "aria-label": "Progress" }),
      el("span", {}, foreign(stage, 40), ` ${number(done)}${total ? ` of ${number(total)}` : ""} `, foreign(unit, 20),
        isLive && rate && `, ${number(rate, 3)} a second`, isLive && left != null && `, ${duration(left)} left`));
  }

  drawNumbers() {
    const rows = this.feed.sorted();
    const names = [...new Set(rows.flatMap(Object.keys))].filter((name) => name !== "step");
    put(this.numbers.body,
      rows.length > ROWS_SHOWN && el("p", { class: "faint" }, `The last ${ROWS_SHOWN} of ${rows.length} steps.`),
      table("Numbers by step", ["step", ...names.map((name) => foreign(name, 40))],
        rows.slice(-ROWS_SHOWN).reverse().map((row) => [String(row.step), ...names.map((name) => name in row ? number(row[name]) : "")]),
        { empty: "None yet. A training tells them with its first steps." }));
  }

  loadLog() {
    return isDone(this.log.body, this.life, async () => {
      const reply = await request("GET", `${this.path}/logs?lines=${LOG_LINES}`, { signal: this.life });
      const text = (await reply.text()).slice(-MOST_CHARS) || "Nothing was printed yet.";
      put(this.log.body, el("pre", { tabindex: "0", "aria-label": "Log" }, foreign(text, MOST_CHARS, "span")));
    });
  }

  tell(error) {
    if (!this.life.aborted) put(this.said, problem(error));
  }
}

/** The curves of a training run; each appears with its first number. */
class Charts {
  element = el("section", { class: "charts", "aria-label": "Curves" });
  #charts = new Map();

  draw(rows) {
    const names = [...new Set(rows.flatMap(Object.keys))];
    const groups = [
      ["Loss", ["loss"], { smooth: true }],
      ...names.filter((name) => name.startsWith("validation_")).map((name) =>
        [spelled(name), [name], {}]),
      ["Throughput", ["tokens_per_s"], { unit: "tokens/s" }],
      ["Learning rate", ["lr"], {}],
      ["Gradient norm", ["grad_norm"], { smooth: true }],
    ];
    for (const [label, fields, options] of groups) {
      const series = fields.map((name) => ({ name, points: pointsOf(rows, name) }));
      if (series.some(({ points }) => points.length)) this.#chart(label, options).show(series);
    }
  }

  #chart(label, options) {
    if (!this.#charts.has(label)) {
      const chart = new Chart(label, options);
      this.#charts.set(label, chart);
      this.element.append(chart.element);
    }
    return this.#charts.get(label);
  }
}

export function pointsOf(rows, name) {
  return rows.filter((row) => typeof row[name] === "number").map((row) => [row.step, row[name]]);
}

/** validation_bits_per_byte as "Validation bits per byte". */
export function spelled(name) {
  const text = name.replaceAll("_", " ").slice(0, 60);
  return text[0].toUpperCase() + text.slice(1);
}

/** What the model said to the same prompts, step by step. */
class Samples {
  #isNewest = true;

  constructor() {
    this.slider = el("input", { type: "range", min: 0, value: 0, id: "sample-step", oninput: () => {
      this.#isNewest = this.slider.value === this.slider.max;
      this.#show();
    } });
    this.step = el("output", { for: "sample-step" });
    this.list = el("dl", { class: "samples" });
    this.element = el("section", { class: "card", hidden: true },
      el("div", { class: "head" }, el("h2", {}, "Samples"), el("label", { for: "sample-step" }, "step"), this.slider, this.step), this.list);
  }

  draw(samples) {
    this.samples = samples;
    this.steps = [...samples.keys()].sort((a, b) => a - b);
    this.element.hidden = !this.steps.length;
    if (!this.steps.length) return;
    this.slider.max = this.steps.length - 1;
    if (this.#isNewest) this.slider.value = this.slider.max;
    this.#show();
  }

  #show() {
    const step = this.steps[Number(this.slider.value)];
    const news = JSON.stringify([step, this.samples.get(step)]);
    if (news === this.shown) return;
    this.shown = news;
    this.slider.setAttribute("aria-valuetext", `step ${step}`);
    this.step.textContent = step.toLocaleString("en");
    put(this.list, this.samples.get(step).map(({ prompt, text }) =>
      el("div", {}, el("dt", {}, foreign(prompt)), el("dd", {}, foreign(text, 2000)))));
  }
}

/** An event in words. */
function words(kind, data) {
  switch (kind) {
    case "log": return data.text;
    case "phase": return data.error ? `${data.phase}: ${data.error.message}` : data.phase;
    case "checkpoint": return `step ${data.step}${data.is_best ? ", the best" : ""}`;
    case "resumed": return `from step ${data.step}`;
    case "stage": return `${data.name} ${data.seconds} s ${data.text ?? ""}`;
    case "started": return data.command;
    default: return flat(data).map(([name, value]) => `${name}=${plain(value)}`).join(" ");
  }
}
