// A chart of lines over steps, drawn as SVG. Used by runs and comparisons. Invariants: every point
// counts, also where more lie in a pixel than can be drawn (the least and the largest of each are);
// the arrow keys move the cursor, whose values are text.

import { el, put, svg } from "./dom.js";
import { number, short } from "./words.js";

const HEIGHT = 190;
const PAD = { left: 46, right: 14, top: 8, bottom: 22 };
const SMOOTH_FROM = 60; // points

export class Chart {
  #series = [];
  #frame = 0;
  #at = null; // step of the cursor
  #isLog = false;

  /** `title` of what is measured, `unit` behind its values. */
  constructor(title, { unit = "", smooth = false, height = HEIGHT } = {}) {
    Object.assign(this, { title, unit, smooth, height });
    this.drawing = svg("svg", { height, "aria-hidden": "true" });
    this.canvas = el("div", {
      class: "canvas", tabindex: "0", role: "img",
      onpointermove: (event) => this.#point(event), onpointerleave: () => this.#move(null),
      onkeydown: (event) => this.#key(event), onblur: () => this.#move(null),
    }, this.drawing);
    this.readout = el("output", { class: "readout", "aria-live": "polite" });
    this.log = el("button", {
      type: "button", class: "quiet small", "aria-pressed": "false", title: "Logarithmic axis",
      "aria-label": `${title}: logarithmic axis`, onclick: () => this.#toggle(),
    }, "log");
    this.element = el("figure", { class: "chart" },
      el("figcaption", {}, el("h2", {}, title), this.readout, this.log), this.canvas);
    new ResizeObserver(() => this.#later()).observe(this.canvas);
  }

  /** `series`: [{name, points: [[step, value], ...]}], the points in order of their steps. */
  show(series) {
    this.#series = series.map(({ name, points }) => ({
      name, points: points.filter(([, value]) => Number.isFinite(value)),
    }));
    this.#later();
  }

  #later() {
    this.#frame ||= requestAnimationFrame(() => {
      this.#frame = 0;
      this.#draw();
    });
  }

  #draw() {
    const width = Math.max(this.canvas.clientWidth, 160);
    const usable = this.#series.map(({ points }) =>
      this.#isLog ? points.filter(([, value]) => value > 0) : points);
    const all = usable.flat();
    this.canvas.setAttribute("aria-label", this.#words());
    this.drawing.setAttribute("viewBox", `0 0 ${width} ${this.height}`);
    if (!all.length) return put(this.drawing), this.#read();
    const scale = this.#scale(all, width);
    put(this.drawing, this.#grid(scale, width), usable.map((points, at) => lines(points, at, scale, this.smooth)));
    this.scale = scale;
    this.#cursor();
  }

  #scale(all, width) {
    let [x0, x1, y0, y1] = [Infinity, -Infinity, Infinity, -Infinity];
    for (const [x, y] of all) {
      [x0, x1, y0, y1] = [Math.min(x0, x), Math.max(x1, x), Math.min(y0, y), Math.max(y1, y)];
    }
    const bent = this.#isLog ? Math.log10 : (y) => y;
    let [low, high] = [bent(y0), bent(y1)];
    const air = (high - low || Math.abs(high) || 1) * 0.06;
    [low, high] = [low >= 0 && low - air < 0 && !this.#isLog ? 0 : low - air, high + air];
    const right = width - PAD.right;
    const bottom = this.height - PAD.bottom;
    return {
      x0, x1, low, high, bent, isLog: this.#isLog,
      x: (x) => PAD.left + ((x - x0) / (x1 - x0 || 1)) * (right - PAD.left),
      y: (y) => bottom - ((bent(y) - low) / (high - low)) * (bottom - PAD.top),
      step: (px) => x0 + ((px - PAD.left) / (right - PAD.left)) * (x1 - x0),
    };
  }

  #grid(scale, width) {
    const heights = ticks(scale.low, scale.high, this.height / 34);
    const ys = scale.isLog ? heights.map((power) => 10 ** power) : heights;
    const xs = ticks(scale.x0, scale.x1, width / 70).filter(Number.isInteger);
    const end = width - PAD.right;
    return svg("g", { class: "grid" },
      ys.map((y) => [
        svg("line", { x1: PAD.left, x2: width - PAD.right, y1: scale.y(y), y2: scale.y(y) }),
        svg("text", { x: PAD.left - 6, y: scale.y(y) + 4, "text-anchor": "end" }, short(y)),
      ]),
      xs.map((x) =>
        svg("text", { x: scale.x(x), y: this.height - 6, "text-anchor": end - scale.x(x) < 12 ? "end" : "middle" }, short(x))));
  }

  /** The line of the cursor, and the values there; without a cursor the newest. */
  #cursor() {
    this.drawing.querySelector(".cursor")?.remove();
    if (this.#at !== null && this.scale) {
      const x = this.scale.x(this.#at);
      this.drawing.append(svg("g", { class: "cursor" },
        svg("line", { x1: x, x2: x, y1: PAD.top, y2: this.height - PAD.bottom }),
        this.#series.map(({ points }, at) => {
          const point = nearest(points, this.#at);
          return point && (!this.scale.isLog || point[1] > 0) &&
            svg("circle", { class: `s${at % 6}`, cx: this.scale.x(point[0]), cy: this.scale.y(point[1]), r: 3 });
        })));
    }
    this.#read();
  }

  #read() {
    const at = this.#at;
    const values = this.#series.map(({ name, points }, n) => {
      const point = at === null ? points.at(-1) : nearest(points, at);
      const isOne = this.#series.length === 1;
      return point && el("span", {}, !isOne && [el("i", { class: `key s${n % 6}` }), el("bdi", {}, `${name} `)],
        el("b", {}, number(point[1])), isOne && this.unit && ` ${this.unit}`);
    });
    put(this.readout, at !== null && el("span", { class: "faint" }, `step ${at.toLocaleString("en")}`), values);
  }

  #words() {
    const told = this.#series.map(({ name, points }) => {
      const [step, value] = points.at(-1) ?? [];
      return points.length ? `${name}: ${points.length} points, ${number(value)} at step ${step}` : `${name}: no points`;
    });
    return `${this.title}. ${told.join("; ")}`;
  }

  #point(event) {
    if (!this.scale) return;
    const step = this.scale.step(event.clientX - this.canvas.getBoundingClientRect().left);
    const near = this.#series.map(({ points }) => nearest(points, step)).filter(Boolean)
      .sort((a, b) => Math.abs(a[0] - step) - Math.abs(b[0] - step));
    if (near.length) this.#move(near[0][0]);
  }

  #key(event) {
    const steps = [...new Set(this.#series.flatMap(({ points }) => points.map(([x]) => x)))].sort((a, b) => a - b);
    const here = this.#at === null ? steps.length : steps.indexOf(this.#at);
    const far = Math.max(Math.round(steps.length / 20), 1);
    const to = { ArrowLeft: here - 1, ArrowRight: here + 1, PageUp: here - far, PageDown: here + far, Home: 0, End: steps.length - 1 }[event.key];
    if (event.key === "Escape") this.#move(null);
    if (to === undefined || !steps.length) return;
    event.preventDefault();
    this.#move(steps[Math.min(Math.max(to, 0), steps.length - 1)]);
  }

  #move(step) {
    this.#at = step;
    this.#cursor();
  }

  #toggle() {
    this.#isLog = !this.#isLog;
    this.log.setAttribute("aria-pressed", this.#isLog);
    this.#later();
  }
}

/** One series: its points, and where they are many and restless a smooth line over them. */
function lines(points, at, scale, smooth) {
  const isSmooth = smooth && points.length >= SMOOTH_FROM;
  const kind = `line s${at % 6}`;
  const drawn = svg("path", { class: isSmooth ? `${kind} raw` : kind, d: path(points, scale) });
  if (points.length === 1) {
    return svg("circle", { class: `s${at % 6}`, cx: scale.x(points[0][0]), cy: scale.y(points[0][1]), r: 3 });
  }
  return [drawn, isSmooth && svg("path", { class: kind, d: path(smoothed(points), scale) })];
}

/** The line through the points; of those in the same pixel the first, least, largest and last. */
function path(points, scale) {
  let text = "";
  let bucket = [];
  const flush = () => {
    const ys = bucket.map(([, y]) => y);
    const few = bucket.length < 5 ? ys : [ys[0], Math.min(...ys), Math.max(...ys), ys.at(-1)];
    for (const y of few) text += `${text ? "L" : "M"}${scale.x(bucket[0][0]).toFixed(1)} ${scale.y(y).toFixed(1)}`;
  };
  for (const point of points) {
    if (bucket.length && Math.floor(scale.x(point[0])) !== Math.floor(scale.x(bucket[0][0]))) {
      flush();
      bucket = [];
    }
    bucket.push(point);
  }
  if (bucket.length) flush();
  return text;
}

/** The mean of each point and its neighbours, a thirtieth of all; at the ends of fewer. */
function smoothed(points) {
  const sums = [0];
  for (const [, y] of points) sums.push(sums.at(-1) + y);
  const most = Math.max(Math.round(points.length / 60), 2);
  return points.map(([x], at) => {
    const reach = Math.min(most, at, points.length - 1 - at);
    return [x, (sums[at + reach + 1] - sums[at - reach]) / (2 * reach + 1)];
  });
}

/** Round numbers between two others, about `wanted` of them. */
export function ticks(low, high, wanted) {
  const rough = (high - low || 1) / wanted;
  const power = 10 ** Math.floor(Math.log10(rough));
  const step = [1, 2, 2.5, 5, 10].map((n) => n * power).find((n) => n >= rough * 0.999);
  const found = [];
  for (let n = Math.ceil(low / step); n * step <= high && found.length < 50; n++) {
    found.push(Number((n * step).toPrecision(12)));
  }
  return found;
}

/** The point whose step is closest; the points are in order. */
function nearest(points, step) {
  let [low, high] = [0, points.length - 1];
  while (low < high) {
    const middle = (low + high) >> 1;
    if (points[middle][0] < step) low = middle + 1;
    else high = middle;
  }
  const before = points[low - 1];
  return before && Math.abs(before[0] - step) <= Math.abs(points[low][0] - step) ? before : points[low];
}
