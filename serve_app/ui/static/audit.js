// Who has changed what, newest first, of all or of one who did. A view.

import { pages } from "./api.js";
import { el, foreign, put, table } from "./dom.js";
import { listed } from "./list.js";
import { clock } from "./words.js";

const POLL_MS = 3000;
const MOST_PAGES = 50;

export function auditView(main, life) {
  let who = "";
  const box = el("div", { class: "card" });
  const only = el("span");
  main.append(el("div", { class: "head" }, el("h1", { tabindex: "-1" }, "Audit"), only, el("a", { href: "#/keys" }, "all keys")), box);

  function choose(id, name) {
    who = id;
    put(only, who && [el("b", {}, foreign(name, 64)), " alone ",
      el("button", { type: "button", class: "small", onclick: () => choose("", "") }, "Everybody")]);
    again();
  }

  function row({ id, created_at: at, who: by, method, subject, outcome, request_id: request }, names) {
    const name = names.get(by) ?? by;
    return [
      el("time", {}, clock(at)),
      el("button", { type: "button", class: "link", title: by, "data-key": id, onclick: () => choose(by, name) }, foreign(name, 64)),
      method, foreign(subject, 200), outcome, el("code", {}, request),
    ];
  }

  const again = listed(box, life, POLL_MS, "api/v1/audit", {
    values: () => ({ who }),
    more: async () => (await pages("api/v1/keys", { limit: 100 }, MOST_PAGES, life)).data.map(({ id, name }) => [id, name]),
    draw: (rows, keys) => table("Audit", ["When", "Who", "How", "What", "Outcome", "Request"], rows.map((each) => row(each, new Map(keys))), {
      empty: "None yet. Whatever is changed over HTTP, or by `mulm key`, leaves a line here.",
    }),
  });
}
