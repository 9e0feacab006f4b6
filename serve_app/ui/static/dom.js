// Elements made by hand. Used by every view. Invariant: a string always becomes a text node, so
// nothing that a model, a corpus or the API says is ever read as markup.

const SVG = "http://www.w3.org/2000/svg";

/** el("a", {href: "#/", onclick: f, class: "x"}, "text", other): children may be null or lists. */
export function el(tag, attributes = {}, ...children) {
  return filled(document.createElement(tag), attributes, children);
}

/** The same for drawings. */
export function svg(tag, attributes = {}, ...children) {
  return filled(document.createElementNS(SVG, tag), attributes, children);
}

function filled(element, attributes, children) {
  for (const [name, value] of Object.entries(attributes)) {
    if (typeof value === "function") element.addEventListener(name.slice(2), value);
    else if (value === true) element.setAttribute(name, "");
    else if (value !== false && value != null) element.setAttribute(name, value);
  }
  element.append(...children.flat(9).filter((child) => child != null && child !== false));
  return element;
}

/** Replace what an element holds; whatever had the focus keeps it, found by its `data-key`. */
export function put(element, ...children) {
  const key = element.contains(document.activeElement) && document.activeElement.dataset.key;
  element.replaceChildren(...children.flat(9).filter((child) => child != null && child !== false));
  if (key) [...element.querySelectorAll("[data-key]")].find((e) => e.dataset.key === key)?.focus();
}

const STEP = 100_000;

/** Text from elsewhere: kept apart from its neighbours' direction, and long ones cut. */
export function foreign(text, limit = 300, tag = "bdi") {
  const whole = String(text ?? "");
  if (whole.length <= limit) return el(tag, { class: "foreign", dir: "auto" }, whole);
  let shown = limit;
  const said = document.createTextNode(cut(whole, shown));
  const more = el("button", { type: "button", class: "link", onclick: reveal }, label());
  function label() {
    return `… ${(whole.length - shown).toLocaleString("en")} more characters`;
  }
  function reveal(event) {
    event.preventDefault();
    shown = Math.min(whole.length, shown + STEP);
    said.data = cut(whole, shown);
    if (shown === whole.length) more.remove();
    else more.textContent = label();
  }
  return el(tag, { class: "foreign", dir: "auto" }, said, more);
}

/** The first characters, never half of one. */
export function cut(text, limit) {
  const isHalf = text.length > limit && /[\ud800-\udbff]/.test(text[limit - 1]);
  return text.slice(0, isHalf ? limit - 1 : limit);
}

/** Words of our own, what stands between backticks as code. */
export function coded(text) {
  return text.split("`").map((piece, at) => at % 2 ? el("code", {}, piece) : piece);
}

/** A table in a box that scrolls by itself. `rows` are lists of cells; the first names the row. */
export function table(name, heads, rows, { keys = [], empty = "None yet." } = {}) {
  if (!rows.length) return el("p", { class: "faint" }, coded(empty));
  const head = el("tr", {}, heads.map((text) => el("th", { scope: "col" }, text)));
  const body = rows.map((cells, at) =>
    el("tr", { "data-row": keys[at] }, cells.map((cell, n) =>
      n ? el("td", {}, cell) : el("th", { scope: "row" }, cell))));
  return el("div", { class: "scroll", tabindex: "0", role: "group", "aria-label": name },
    el("table", { "aria-label": name }, el("thead", {}, head), el("tbody", {}, body)));
}

/** Names and values below each other. */
export function pairs(entries) {
  return el("dl", {}, entries.map(([name, value]) =>
    el("div", {}, el("dt", {}, foreign(name, 120)),
      el("dd", {}, value instanceof Node ? value : foreign(value)))));
}

/** A button that asks again before it acts, by changing its own words for a few seconds. */
export function confirmed(words, again, act, attributes = {}) {
  let timer = 0;
  const calm = () => {
    clearTimeout(timer);
    timer = 0;
    button.textContent = words;
    button.classList.remove("danger");
  };
  const button = el("button", { type: "button", ...attributes, onclick: () => {
    if (timer) return calm(), act();
    button.textContent = again;
    button.classList.add("danger");
    timer = setTimeout(calm, 4000);
  } }, words);
  return button;
}

/** What went wrong, in the server's words, and what to do. */
export function problem({ message, hint, requestId }) {
  return el("div", { class: "problem", role: "alert" }, el("b", {}, foreign(message)),
    hint && el("span", {}, " ", foreign(hint)), requestId && el("small", {}, ` ${requestId}`));
}

/** Whether something went well; what went wrong is shown in `box` while `life` lasts. */
export async function isDone(box, life, work) {
  try {
    await work();
    return true;
  } catch (error) {
    if (!life.aborted) put(box, problem(error));
    return false;
  }
}

/** A part of the page that is closed at first; `fill()` is called when it is opened. */
export function folded(name, fill, attributes = { class: "card" }) {
  const body = el("div");
  const element = el("details", { ...attributes, ontoggle: () => element.open && fill?.() }, el("summary", {}, name), body);
  return { element, body };
}

/** The name of the page in the browser's tab. */
export function titled(text) {
  document.title = `${cut(String(text), 80)} · µLM`;
}
