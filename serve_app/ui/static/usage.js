// What keys have used in the last days, by key, model and day. A part of the view of keys.

import { every, pages, query } from "./api.js";
import { histogram } from "./bars.js";
import { el, foreign, put, problem, table } from "./dom.js";
import { number } from "./words.js";

const POLL_MS = 30_000;
const MOST_PAGES = 10;
const DAYS = 14;
const DAY_S = 86_400;

/** A card; `nameOf` tells whose a key is, once `named` is fulfilled. */
export function usageCard(life, named, nameOf) {
  const box = el("div", { class: "grid" });

  async function load() {
    const from = Math.floor(Date.now() / 1000 / DAY_S - DAYS + 1) * DAY_S;
    const { data } = await pages(query("api/v1/usage", { bucket: "day", from }), { limit: 1000 }, MOST_PAGES, life);
    await named;
    const byKey = sums(data, ({ key, model }) => JSON.stringify([key, model]));
    const byDay = sums(data, ({ start_at: at }) => new Date(at * 1000).toISOString().slice(0, 10));
    put(box, table("Usage", ["Key", "Model", "Requests", "Tokens read", "Tokens written"], [...byKey].map(([id, sum]) => {
      const [key, model] = JSON.parse(id);
      return [foreign(nameOf(key), 64), foreign(model, 64), number(sum.requests), number(sum.read), number(sum.written)];
    }), { empty: `Nothing in the last ${DAYS} days. Whatever a key has a model answer is counted here.` }),
    byDay.size ? histogram("Tokens by day (UTC)", [...byDay].map(([name, sum]) => ({ name, count: sum.read + sum.written }))) : null);
  }

  every(POLL_MS, life, load, (error) => put(box, problem(error)));
  return el("section", { class: "card" }, el("h2", {}, `Used in ${DAYS} days`), box);
}

/** The numbers of all rows that have the same name. */
function sums(rows, nameOf) {
  const found = new Map();
  for (const row of rows) {
    const sum = found.get(nameOf(row)) ?? { requests: 0, read: 0, written: 0 };
    sum.requests += row.requests;
    sum.read += row.input_tokens;
    sum.written += row.output_tokens;
    found.set(nameOf(row), sum);
  }
  return found;
}
