// An answer token by token, each with its probability. Used by a chat's pane. Invariant: the text
// that is shown is the answer's own; where tokens do not add up to it, as after a stop string, they
// are left out.

import { el, foreign, put } from "./dom.js";

export class Answer {
  content = "";
  #tokens = []; // {text, logprob, top}
  #decoder = new TextDecoder();
  #at = -1;

  constructor() {
    this.text = el("div", { class: "answer", dir: "auto" });
    this.tip = el("div", { class: "tip", role: "status", hidden: true });
    this.element = el("div", { class: "answered" }, this.text, this.tip);
    this.text.addEventListener("pointerover", ({ target }) => this.#look(this.#place(target)));
    this.text.addEventListener("pointerleave", () => this.#look(-1));
    this.text.addEventListener("blur", () => this.#look(-1));
    this.text.addEventListener("keydown", (event) => this.#key(event));
  }

  /** Some more of it; `logprobs` are OpenAI's, or none. */
  add(content, logprobs) {
    this.content += content;
    if (!logprobs?.length) {
      if (content && !this.#tokens.length) this.text.append(content);
      return;
    }
    for (const { bytes, logprob, top_logprobs: top } of logprobs) {
      const text = bytes ? this.#decoder.decode(new Uint8Array(bytes), { stream: true }) : "";
      this.#tokens.push({ text, logprob, top });
      const span = el("span", { class: "token", "data-at": this.#tokens.length - 1 }, text);
      span.style.setProperty("--doubt", (1 - Math.exp(logprob)).toFixed(2));
      this.text.append(span);
    }
  }

  /** It is whole. */
  end() {
    const said = this.#tokens.map(({ text }) => text).join("");
    if (this.#tokens.length && said === this.content) {
      this.text.tabIndex = 0;
      this.text.setAttribute("role", "group");
      this.text.setAttribute("aria-label", "Answer; the arrow keys go through its tokens");
    } else {
      this.#tokens = [];
      put(this.text, this.content);
    }
  }

  #place(target) {
    return target.dataset?.at === undefined ? -1 : Number(target.dataset.at);
  }

  #key(event) {
    const to = { ArrowRight: this.#at + 1, ArrowLeft: this.#at - 1, Home: 0, End: this.#tokens.length - 1, Escape: -1 }[event.key];
    if (to === undefined) return;
    event.preventDefault();
    this.#look(Math.min(to, this.#tokens.length - 1));
  }

  #look(at) {
    this.text.querySelector(".token.seen")?.classList.remove("seen");
    this.#at = Math.max(at, -1);
    const token = this.#tokens[at];
    this.tip.hidden = !token;
    if (!token) return;
    const span = this.text.querySelector(`[data-at="${at}"]`);
    span.classList.add("seen");
    put(this.tip, row(token.text, token.logprob, true), (token.top ?? [])
      .filter(({ token: name }) => name !== token.text).map((other) => row(other.token, other.logprob)));
    const room = this.element.clientWidth - this.tip.offsetWidth;
    this.tip.style.left = `${Math.max(Math.min(span.offsetLeft, room), 0)}px`;
    this.tip.style.top = `${span.offsetTop + span.offsetHeight + 4}px`;
  }
}

function row(text, logprob, isChosen = false) {
  const share = Math.exp(logprob);
  const bar = el("i", { class: "bar" });
  bar.style.setProperty("--share", share.toFixed(3));
  return el("div", { class: isChosen ? "chosen" : null }, el("code", {}, foreign(visible(text), 40)),
    el("span", {}, `${(100 * share).toFixed(share < 0.1 ? 2 : 1)} %`), bar);
}

/** Spaces and line ends as something to see. */
function visible(text) {
  return text.replaceAll(" ", "␣").replaceAll("\n", "↵").replaceAll("\t", "⇥") || "∅";
}
