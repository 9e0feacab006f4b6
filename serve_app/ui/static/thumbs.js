// Thumbs under an answer, and a word why. Used by a chat's pane. Invariant: a thumb that is shown as
// pressed was acknowledged by the server; the latest one holds, and its comment with it.

import { request } from "./api.js";
import { el, isDone, put, svg } from "./dom.js";

const HAND = "M2 9h3v9H2zM7 9l3-7c2 0 2.5 1.5 2 3.5L11.5 8H17c1 0 1.7 1 1.4 2l-2 7c-.2.6-.8 1-1.4 1H7z";
const MOST_CHARS = 4000;

/** `answered` is what the API takes as feedback, but for the verdict. */
export function thumbs(answered, life) {
  const said = el("span", { "aria-live": "polite" });
  const why = el("input", { "aria-label": "Why", placeholder: "Why? (if you like)", maxlength: MOST_CHARS });
  const form = el("form", { class: "why", hidden: true, onsubmit: (event) => {
    event.preventDefault();
    give(verdict);
  } }, why, el("button", { type: "submit" }, "Say so"));
  const buttons = { up: thumb("up", "Good answer"), down: thumb("down", "Bad answer") };
  let verdict = null;
  let last = Promise.resolve(); // one after the other: what is pressed last holds

  function thumb(name, label) {
    return el("button", { type: "button", class: `thumb ${name}`, "aria-label": label, title: label, "aria-pressed": "false", onclick: () => give(name) },
      svg("svg", { viewBox: "0 0 20 20", width: 18, height: 18, "aria-hidden": "true" }, svg("path", { d: HAND })));
  }

  function give(name) {
    last = last.then(() => send(name));
  }

  async function send(name) {
    put(said);
    const isSame = name === verdict; // why it was good is not why it is bad
    const comment = isSame ? why.value.trim() : "";
    const isGiven = await isDone(said, life, () => request("POST", "api/v1/feedback", {
      body: { ...answered, verdict: name, comment },
    }));
    if (!isGiven) return;
    if (!isSame) why.value = "";
    verdict = name;
    for (const each of Object.keys(buttons)) buttons[each].setAttribute("aria-pressed", String(each === name));
    form.hidden = false;
    put(said, comment ? "Noted, with why." : "Noted.");
  }

  return el("div", { class: "thumbs", role: "group", "aria-label": "Your verdict" }, buttons.up, buttons.down, form, said);
}
