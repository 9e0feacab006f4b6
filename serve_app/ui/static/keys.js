// API keys: who may use the service. A view. Invariant: the text of a new key is shown once, kept
// nowhere, and gone when the view is left.

import { every, pages, part, request } from "./api.js";
import { confirmed, el, foreign, isDone, problem, put, table } from "./dom.js";
import { usageCard } from "./usage.js";
import { clock } from "./words.js";

const POLL_MS = 10_000;
const MOST_PAGES = 50;
const DAY_S = 86_400;
const LIVES = [["for ever", ""], ["for a day", DAY_S], ["for 30 days", 30 * DAY_S], ["for a year", 365 * DAY_S]];

export function keysView(main, life) {
  const box = el("div", { class: "card" });
  const names = new Map();
  let isNamed;
  const named = new Promise((done) => { isNamed = done; });
  const said = el("div", { "aria-live": "polite" });
  const name = el("input", { required: true, maxlength: 64, placeholder: "a friend", autocomplete: "off" });
  const scope = el("select", {}, el("option", { value: "inference" }, "ask models"), el("option", { value: "all" }, "do everything"));
  const lasts = el("select", {}, LIVES.map(([words, value]) => el("option", { value }, words)));
  const form = el("form", { class: "card", onsubmit: (event) => {
    event.preventDefault();
    const body = { name: name.value.trim(), scope: scope.value };
    act("POST", "api/v1/keys", lasts.value ? { ...body, expires_in_s: Number(lasts.value) } : body)
      .then((isMade) => isMade && (name.value = ""));
  } }, el("h2", {}, "A new key"), el("div", { class: "fields" },
    el("label", {}, "Whose it is", name), el("label", {}, "May", scope), el("label", {}, "Valid", lasts),
    el("button", { type: "submit", class: "primary" }, "Make it")));

  async function load() {
    const { data: keys } = await pages("api/v1/keys", { limit: 100 }, MOST_PAGES, life);
    for (const key of keys) names.set(key.id, key.name);
    isNamed();
    const news = JSON.stringify(keys);
    if (box.dataset.news === news) return;
    box.dataset.news = news;
    put(box, table("Keys", ["Name", "May", "Models", "Made", "Ends", "Id", "Change"], keys.map(row)));
  }

  function row(key) {
    return [
      foreign(key.name, 64), key.scope === "all" ? "do everything" : "ask models",
      key.models?.length ? foreign(key.models.join(", ")) : "all", clock(key.created_at),
      key.expires_at ? clock(key.expires_at) : "never", el("code", {}, key.id),
      el("span", { class: "acts" },
        confirmed("New secret", "Replace it?", () => act("POST", `api/v1/keys/${part(key.id)}/rotate`, {}),
          { "aria-label": `New secret for ${key.name}`, "data-key": `rotate-${key.id}` }),
        confirmed("Revoke", "Really revoke?", () => act("DELETE", `api/v1/keys/${part(key.id)}`),
          { "aria-label": `Revoke ${key.name}`, "data-key": `revoke-${key.id}` })),
    ];
  }

  function act(method, path, body) {
    put(said);
    return isDone(said, life, async () => {
      const reply = await request(method, path, { body });
      if (reply.status !== 204) put(said, once(await reply.json(), () => put(said)));
      await load();
    });
  }

  main.append(el("div", { class: "head" }, el("h1", { tabindex: "-1" }, "Keys")), said, box, usageCard(life, named, (id) => names.get(id) ?? id), form);
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
