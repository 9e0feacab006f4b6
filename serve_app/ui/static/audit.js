// Who has changed what, newest first, of all or of one who did. A view.

import { pages } from "./api.js";
import { el, foreign, put, table } from "./dom.js";
import { listed } from "./list.js";
import { clock } from "./words.js";

const POLL_MS = 3000;
const MOST_PAGES = 50;

export function auditView(main, life) {
  let who = "";
  const names = new Map();
  const sought = new Set(); // ids of keys; some are revoked, and have no name any more
  const box = el("div", { class: "card" });
  const only = el("span");
  main.append(el("div", { class: "head" }, el("h1", { tabindex: "-1" }, "Audit"), only, el("a", { href: "#/keys" }, "all keys")), box);

  function choose(id, name) {
    who = id;
    put(only, who && [el("b", {}, foreign(name, 64)), " alone ",
      el("button", { type: "button", class: "small", onclick: () => choose("", "") }, "Everybody")]);
    again();
  }

  /** All names once, and again where somebody is new. */
  async function known(rows) {
    const fresh = rows.map(({ who: by }) => by).filter((by) => by.startsWith("key_") && !sought.has(by));
    if (!fresh.length) return;
    for (const { id, name } of (await pages("api/v1/keys", { limit: 100 }, MOST_PAGES, life)).data) names.set(id, name);
    for (const by of fresh) sought.add(by);
  }

  function row({ id, created_at: at, who: by, method, subject, outcome, request_id: request }) {
    const name = names.get(by) ?? by;
    return [
      el("time", {}, clock(at)),
      el("button", { type: "button", class: "link", title: by, "data-key": id, onclick: () => choose(by, name) }, foreign(name, 64)),
      method, foreign(subject, 200), outcome, el("code", {}, request),
    ];
  }

  const again = listed(box, life, POLL_MS, "api/v1/audit", {
    values: () => ({ who }),
    more: known,
    draw: (rows) => table("Audit", ["When", "Who", "How", "What", "Outcome", "Request"], rows.map(row), {
      empty: "None yet. Whatever is changed over HTTP, or by `mulm key`, leaves a line here.",
    }),
  });
}
