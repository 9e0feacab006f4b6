// Another run like one that is there, with some settings otherwise. A part of the view of a run.
// Invariants: only what was changed is sent, with the group that it is in; the rest is the server's;
// a text that reads as JSON stands in quotes, so that it stays a text.

import { part, request } from "./api.js";
import { cut, el, folded, isDone, put } from "./dom.js";

/** {element, draw(run)}: closed until somebody opens it; what is typed there stays. */
export function forking(path, life) {
  const said = el("div", { "aria-live": "polite" });
  const rows = el("div", { class: "grid" });
  const { element, body } = folded("Fork", () => rows.children.length || add());
  let run = { config: {} };
  const chosen = []; // [path of a setting, its input, what it says untouched]
  put(body, el("p", { class: "faint" }, "Another run like this one, with some settings otherwise."), el("form", { onsubmit: (event) => {
    event.preventDefault();
    put(said);
    isDone(said, life, start);
  } }, rows, el("div", { class: "fields" }, el("button", { type: "button", onclick: add }, "Another setting"),
    el("button", { type: "submit", class: "primary" }, "Start it")), said));

  /** A setting and its value, as they are in the run. */
  function add() {
    const settings = leaves(run.config);
    const value = el("input", { spellcheck: "false" });
    const row = [settings[0], value, ""];
    const choose = () => {
      row[0] = settings[name.value];
      value.value = row[2] = written(within(run.config, row[0]));
    };
    const name = el("select", { onchange: choose }, settings.map((keys, at) =>
      el("option", { value: at, selected: keys.join() === "seed" }, cut(keys.join("."), 80))));
    rows.append(el("div", { class: "fields" }, el("label", {}, "Setting", name), el("label", {}, "Value", value)));
    chosen.push(row);
    choose();
    name.focus();
  }

  async function start() {
    const config = structuredClone(run.config);
    const changed = chosen.filter(([, { value }, before]) => value !== before);
    for (const [keys, { value }] of changed) within(config, keys.slice(0, -1))[keys.at(-1)] = read(value);
    const tops = [...new Set(changed.map(([[top]]) => top))];
    const body = { config: Object.fromEntries(tops.map((top) => [top, config[top]])) };
    const { id } = await (await request("POST", `${path}/fork`, { body })).json();
    if (id === run.id) put(said, "That is this very run: change something.");
    else location.hash = `#/runs/${part(id)}`;
  }

  element.hidden = true;
  return { element, draw: (told) => { run = told; element.hidden = !leaves(run.config).length; } };
}

/** The paths of all settings: {a: {b: 1}} has ["a", "b"]; a list is one setting. */
function leaves(value, path = []) {
  return Object.entries(value).flatMap(([key, inner]) =>
    inner && typeof inner === "object" && !Array.isArray(inner) && Object.keys(inner).length
      ? leaves(inner, [...path, key]) : [[...path, key]]);
}

const within = (value, path) => path.reduce((inner, key) => inner[key], value);

/** A value as `read` reads it. */
function written(value) {
  return typeof value === "string" && read(value) === value ? value : JSON.stringify(value);
}

/** What somebody typed: JSON where it is some, else a text. */
function read(text) {
  try {
    return JSON.parse(text);
  } catch {
    return text;
  }
}
