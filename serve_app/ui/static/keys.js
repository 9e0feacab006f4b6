// API keys: who may use the service. A view. Invariant: the text of a new key is shown once, kept
// nowhere, and gone when the view is left.

import { every, pages, part, request } from "./api.js";
import { confirmed, el, foreign, isDone, problem, put, table } from "./dom.js";
import { keyFields, limitWords } from "./key_fields.js";
import { usageCard } from "./usage.js";
import { clock } from "./words.js";

const POLL_MS = 10_000;
const MOST_PAGES = 50;

export function keysView(main, life) {
  const box = el("div", { class: "card" });
  const names = new Map();
  let isNamed;
  const named = new Promise((done) => { isNamed = done; });
  const said = el("div", { "aria-live": "polite" });
  const name = el("input", { required: true, maxlength: 64, placeholder: "a friend", autocomplete: "off" });
  const scope = el("select", {}, el("option", { value: "inference" }, "ask models"), el("option", { value: "all" }, "do everything"));
  const fields = keyFields();
  const form = el("form", { class: "card", onsubmit: (event) => {
    event.preventDefault();
    act("POST", "api/v1/keys", { name: name.value.trim(), scope: scope.value, ...fields.values() })
      .then((isMade) => isMade && (name.value = ""));
  } }, el("h2", {}, "A new key"), el("div", { class: "fields" },
    el("label", {}, "Whose it is", name), el("label", {}, "May", scope), fields.elements,
    el("button", { type: "submit", class: "primary" }, "Make it")));
  const changing = el("div");

  async function load() {
    const { data: keys } = await pages("api/v1/keys", { limit: 100 }, MOST_PAGES, life);
    for (const key of keys) names.set(key.id, key.name);
    isNamed();
    const news = JSON.stringify(keys);
    if (box.dataset.news === news) return;
    box.dataset.news = news;
    put(box, table("Keys", ["Name", "May", "Models", "Limits", "Made", "Ends", "Id", "Change"], keys.map(row)));
  }

  function row(key) {
    return [
      foreign(key.name, 64), key.scope === "all" ? "do everything" : "ask models",
      key.models.length ? foreign(key.models.join(", ")) : "all", limitWords(key.limits), clock(key.created_at),
      key.expires_at ? clock(key.expires_at) : "never", el("code", {}, key.id),
      el("span", { class: "acts" },
        el("button", { type: "button", "aria-label": `Change ${key.name}`, "data-key": `change-${key.id}`, onclick: () => change(key) }, "Change"),
        confirmed("New secret", "Replace it?", () => act("POST", `api/v1/keys/${part(key.id)}/rotate`, {}),
          { "aria-label": `New secret for ${key.name}`, "data-key": `rotate-${key.id}` }),
        confirmed("Revoke", "Really revoke?", () => act("DELETE", `api/v1/keys/${part(key.id)}`),
          { "aria-label": `Revoke ${key.name}`, "data-key": `revoke-${key.id}` })),
    ];
  }

  /** A form with what a key may use now. */
  function change(key) {
    const name = el("input", { required: true, maxlength: 64, value: key.name, autocomplete: "off" });
    const fields = keyFields(key);
    const leave = () => {
      put(changing);
      box.querySelector(`[data-key="change-${key.id}"]`)?.focus();
    };
    put(changing, el("form", { class: "card", "aria-label": `Change ${key.name}`, onsubmit: (event) => {
      event.preventDefault();
      const path = `api/v1/keys/${part(key.id)}`;
      const named = name.value.trim() === key.name ? {} : { name: name.value.trim() };
      act("PATCH", path, { ...named, ...fields.values() }).then((isMade) => isMade && leave());
    } }, el("h2", {}, "Change ", foreign(key.name, 64)), el("div", { class: "fields" },
      el("label", {}, "Whose it is", name), fields.elements, el("button", { type: "submit", class: "primary" }, "Change it"),
      el("button", { type: "button", onclick: leave }, "Leave it"))));
    name.focus();
  }

  function act(method, path, body) {
    put(said);
    return isDone(said, life, async () => {
      const reply = await request(method, path, { body });
      const told = reply.status === 204 ? {} : await reply.json();
      put(said, told.key && once(told, () => put(said)), told.hint && el("p", { class: "faint" }, foreign(told.hint)));
      await load();
    });
  }

  main.append(el("div", { class: "head" }, el("h1", { tabindex: "-1" }, "Keys"), el("a", { href: "#/audit" }, "who has changed what")), said, box, changing, usageCard(life, named, (id) => names.get(id) ?? id), form);
  every(POLL_MS, life, load, (error) => put(said, problem(error)));
}

/** The text of a key, for the only time. */
function once({ name, key }, done) {
  const text = el("input", { readonly: true, value: key, "aria-label": "The new key" });
  const copy = el("button", { type: "button", class: "primary", onclick: async () => {
    text.select();
    if (navigator.clipboard) await navigator.clipboard.writeText(key); // not over plain HTTP
    else document.execCommand("copy");
    copy.textContent = "Copied";
  } }, "Copy");
  return el("section", { class: "card once" },
    el("h2", {}, "The key of ", foreign(name, 64)),
    el("p", {}, "It is shown this once and kept nowhere: copy it now."),
    el("div", { class: "fields" }, text, copy, el("button", { type: "button", onclick: done }, "Done")));
}
