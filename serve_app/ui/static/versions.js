// Versions of models, datasets and tokenizers: the lists, and one of them with what it was made of
// and from. Views. What is special to a kind is added by its own file.

import { aliasesOf } from "./aliases.js";
import { get, part } from "./api.js";
import { el, folded, foreign, isDone, pairs, put, table } from "./dom.js";
import { listed } from "./list.js";
import { ago, clock, flat, number, plain, size } from "./words.js";

const POLL_MS = 10_000;
const DEEPEST = 5;
const KIND_OF_ROLE = { dataset: "datasets", tokenizer: "tokenizers" };

/** The list of a kind: `models`, `datasets` or `tokenizers`. */
export function versionsView(kind, title, hint) {
  return (main, life) => {
    const box = el("div", { class: "card" });
    async function aliases(found) {
      const names = [...new Set(found.map(({ name }) => name))];
      return Promise.all(names.map(async (name) =>
        [name, (await get(`api/v1/${kind}/${part(name)}/aliases`, { signal: life })).data]));
    }

    function draw(found, named) {
      const words = new Map(named);
      return table(title, ["Version", "Aliases", "Made", "Id"], found.map((version) => [
        el("a", { href: `#/${kind}/${part(version.id)}`, "data-key": version.id }, foreign(version.id, 90)),
        chips(words.get(version.name).filter((alias) => alias.version === version.version).map(({ alias }) => alias)),
        el("span", { class: "faint" }, ago(version.created_at)),
        el("code", {}, version.manifest_id),
      ]), { empty: hint });
    }

    main.append(el("div", { class: "head" }, el("h1", { tabindex: "-1" }, title)), box);
    listed(box, life, POLL_MS, `api/v1/${kind}`, { more: aliases, draw });
  };
}

/** One version; `more(version, life)` gives further cards, to stand behind the facts. */
export function versionView(kind, more = () => []) {
  return (main, life, ref) => {
    const named = el("span");
    const box = el("div", { class: "grid" });
    main.append(el("div", { class: "head" }, el("h1", { tabindex: "-1" }, foreign(ref, 120)), named,
      el("a", { href: `#/${kind}` }, `all ${kind}`)), box);
    const load = async () => {
      const version = await get(`api/v1/${kind}/${part(ref)}`, { signal: life });
      put(named, chips(version.aliases));
      return version;
    };
    isDone(box, life, async () => {
      const version = await load();
      put(box, el("div", { class: "columns" }, facts(version), await lineage(kind, version, life)),
        more(version, life), aliasesOf(kind, version, life, load), files(version), config(version));
    });
  };
}

export function chips(words) {
  return el("span", { class: "tags" }, words.map((word) => el("b", { class: "tag" }, foreign(word, 60))));
}

function facts(version) {
  const weight = version.files.reduce((sum, file) => sum + file.size_bytes, 0);
  return el("section", { class: "card" }, el("h2", {}, "Facts"), pairs([
    ["version", version.id],
    ["made", `${clock(version.created_at)}, ${ago(version.created_at)}`],
    ...flat(version.counts).map(([name, value]) => [name.replaceAll("_", " "), typeof value === "number" ? number(value) : plain(value)]),
    ["size", size(weight)],
    ["licences", version.licences.join(", ") || "none named"],
    ["id", el("code", {}, version.manifest_id)],
    ["code", version.code_version],
  ]));
}

/** What it was made from, and that from: a tree as deep as names lead. */
async function lineage(kind, version, life) {
  const seen = new Set([version.manifest_id]);
  async function branches(parents, depth) {
    const grown = await Promise.all(Object.entries(parents).map(async ([role, { id, refs }]) => {
      const [ref] = refs;
      const of = KIND_OF_ROLE[role] ?? (role === "documents" ? null : "models");
      const label = el("span", {}, el("span", { class: "faint" }, foreign(role, 40), " "), linkOf(id, ref, of));
      if (!ref || !of || depth >= DEEPEST || seen.has(id)) return el("li", {}, label);
      seen.add(id);
      const parent = await get(`api/v1/${of}/${part(ref)}`, { signal: life }).catch(() => null);
      return el("li", {}, label, parent && await branches(parent.parents, depth + 1));
    }));
    return grown.length ? el("ul", {}, grown) : null;
  }
  return el("section", { class: "card tree" }, el("h2", {}, "Made from"),
    (await branches(version.parents, 0)) ?? el("p", { class: "faint" }, "Nothing that is kept here."));
}

function linkOf(id, ref, kind) {
  if (id.startsWith("run_")) return el("a", { href: `#/runs/${part(id)}` }, el("code", {}, id));
  if (ref && kind) return el("a", { href: `#/${kind}/${part(ref)}` }, foreign(ref, 90));
  return el("code", {}, foreign(id, 90));
}

function files(version) {
  return filled("Files", table("Files", ["Name", "Size"],
    version.files.map((file) => [foreign(file.name, 200), size(file.size_bytes)])));
}

function config(version) {
  return filled("Config", pairs(flat(version.config).map(([name, value]) => [name, plain(value)])));
}

function filled(name, content) {
  const { element, body } = folded(name);
  put(body, content);
  return element;
}
