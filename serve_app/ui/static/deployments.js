// What is served: models with their engines, live; another version, more engines, canary, rollback.
// A view. Invariant: a change is made only to the revision that was seen (`If-Match`).

import { every, get, part, query, request } from "./api.js";
import { coded, confirmed, el, folded, foreign, isDone, pairs, problem, put, table } from "./dom.js";
import { badge } from "./runs.js";
import { ago, flat, number, plain, size } from "./words.js";

const POLL_MS = 2000;

export function deploymentsView(main, life) {
  const cards = new Map();
  const said = el("div", { "aria-live": "polite" });
  const list = el("div", { class: "grid" });

  async function load() {
    const { data } = await get(query("api/v1/deployments", { limit: 100 }), { signal: life });
    for (const told of data) {
      if (!cards.has(told.id)) cards.set(told.id, new Card(told.id, act, life));
      cards.get(told.id).draw(told);
    }
    for (const id of cards.keys()) if (!data.some((told) => told.id === id)) cards.delete(id);
    const elements = [...cards.values()].map(({ element }) => element);
    if (elements.length !== list.children.length || elements.some((each, at) => each !== list.children[at])) {
      put(list, elements);
    }
    if (!elements.length) put(list, el("p", { class: "faint" }, coded("Nothing is served. `mulm serve demo` does it, or the form below.")));
  }

  function act(method, path, body, revision) {
    put(said);
    return isDone(said, life, async () => {
      await request(method, `api/v1/deployments${path}`, { body, headers: revision ? { "if-match": `"${revision}"` } : {} });
      await load();
    });
  }

  main.append(el("div", { class: "head" }, el("h1", { tabindex: "-1" }, "Deployments")), said, list, newOne(act, life));
  every(POLL_MS, life, load, (error) => put(said, problem(error)));
}

/** One deployment: what changes by itself is drawn anew, what somebody may be typing in is not. */
class Card {
  constructor(name, act, life) {
    this.path = `/${part(name)}`;
    this.act = (method, path, body) => act(method, this.path + path, body, this.revision);
    this.standing = el("span");
    this.live = el("div", { class: "grid" });
    this.acts = el("div", { class: "fields" });
    this.settings = folded("Settings", null, {});
    this.past = folded("History", () => this.#history(life), {});
    this.element = el("section", { class: "card grid", "aria-label": name },
      el("div", { class: "head" }, el("h2", {}, foreign(name, 64)), this.standing), this.live, this.acts, this.settings.element, this.past.element);
  }

  draw(told) {
    put(this.standing, badge({ phase: told.status }));
    put(this.live, told.message && problem(told), this.#traffic(told), replicas(told.replicas));
    if (told.revision === this.revision) return;
    this.revision = told.revision;
    put(this.acts, this.#acts(told));
    put(this.settings.body, pairs(flat(told.settings).map(([name, value]) => [name, plain(value)])));
  }

  #traffic({ traffic, canary, revision, reason, updated_at: at }) {
    const seen = (role) => canary?.seen?.[role] && ` (${number(canary.seen[role].requests)} answered, ${number(canary.seen[role].failures_percent)} % failed)`;
    return el("p", {}, traffic.map(({ model, weight }, n) => el("span", {}, n ? ", " : null,
      el("a", { href: `#/models/${part(model)}`, "data-key": `model-${n}` }, foreign(model, 90)),
      traffic.length > 1 && ` ${number(weight)} %`, seen(n ? "canary" : "itself"))),
    el("span", { class: "faint" }, ` · revision ${revision}, ${ago(at)}: `, foreign(reason, 200)));
  }

  #acts({ settings, canary }) {
    const most = el("input", { type: "number", min: 1, max: 64, value: settings.max_replicas });
    const model = el("input", { placeholder: "name@version", maxlength: 128 });
    const change = (name, body) => el("button", { type: "button", onclick: () => body() && this.act("PATCH", "", body()) }, name);
    return [
      el("label", {}, "Engines at most", most), change("Scale", () => most.value && { max_replicas: most.valueAsNumber }),
      el("label", {}, "Another model", model), change("Serve it", () => model.value.trim() && { model: model.value.trim() }),
      el("button", { type: "button", onclick: () => model.value.trim() && this.act("PUT", "/canary", { model: model.value.trim() }) }, "As canary"),
      canary && el("button", { type: "button", onclick: () => this.act("POST", "/promote") }, "Promote the canary"),
      canary && el("button", { type: "button", onclick: () => this.act("DELETE", "/canary") }, "End the canary"),
      this.revision > 1 && confirmed("Roll back", "Really roll back?", () => this.act("POST", "/rollback", {})),
      confirmed("Remove", "Really remove?", () => this.act("DELETE", "")),
    ];
  }

  #history(life) {
    return isDone(this.past.body, life, async () => {
      const { data } = await get(`api/v1/deployments${this.path}/history`, { signal: life });
      put(this.past.body, table("History", ["Revision", "When", "Model", "Why"], data.map((each) =>
        [String(each.revision), ago(each.set_at), foreign(each.model ?? "–", 90), foreign(each.reason, 200)])));
    });
  }
}

function replicas(all) {
  return table("Engines", ["Engine", "State", "Where", "Device", "Running", "Waiting", "Cache", "Tokens/s", "Memory"], all.map((each) => [
    el("code", {}, foreign(each.id, 60)), badge({ phase: each.state }), foreign(each.node ?? "–", 60),
    each.device ? foreign(`${each.device} ${each.dtype}`, 80) : "–", number(each.running), number(each.waiting),
    each.kv_use == null ? "–" : `${number(100 * each.kv_use, 3)} %`, number(each.tokens_per_s, 3),
    each.memory_bytes ? size(each.memory_bytes) : "–",
  ]), { empty: "No engine runs yet. The first one starts by itself." });
}

/** A form that serves a model under its own name, or under another. */
function newOne(act, life) {
  const model = el("select", { required: true });
  const name = el("input", { placeholder: "its own", maxlength: 64 });
  const said = el("div");
  isDone(said, life, async () => {
    const { data } = await get(query("api/v1/models", { limit: 100 }), { signal: life });
    put(model, data.map(({ id }) => el("option", { value: id }, id)));
    put(said, !data.length && el("p", { class: "faint" }, coded("No models yet. `mulm train examples/demo.yaml` makes one.")));
  });
  return el("form", { class: "card", onsubmit: (event) => {
    event.preventDefault();
    act("POST", "", { model: model.value, ...(name.value.trim() ? { served_name: name.value.trim() } : {}) });
  } }, el("h2", {}, "Serve a model"), said, el("div", { class: "fields" },
    el("label", {}, "Model", model), el("label", {}, "Name for clients", name), el("button", { type: "submit", class: "primary" }, "Serve it")));
}
