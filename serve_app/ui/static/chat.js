// The chat: one question to one model, or to two side by side. A view. A conversation stays while
// the tab is open, also when another view is shown, and ends with the session.

import { get } from "./api.js";
import { ChatPane } from "./chat_pane.js";
import { coded, el, isDone, put } from "./dom.js";
import { session } from "./session.js";

let room = null;
session.addEventListener("change", () => {
  room?.end();
  room = null;
});

export function chatView(main, life) {
  room ??= new Room();
  main.append(room.element);
  room.load(life);
}

class Room {
  #life = new AbortController();

  constructor() {
    this.panes = ["A", "B"].map((name) => new ChatPane(name, this.#life.signal));
    this.isTwo = toggle("Two side by side", () => this.#arrange());
    this.hasOdds = toggle("Token probabilities", () => this.#arrange(), true);
    this.said = el("div");
    this.prompt = el("textarea", {
      rows: 2, "aria-label": "Message", placeholder: "Say something. Enter sends, Shift+Enter begins a line.",
      onkeydown: (event) => {
        if (event.key !== "Enter" || event.shiftKey || event.isComposing) return;
        event.preventDefault();
        this.send();
      },
    });
    this.sendButton = el("button", { type: "button", class: "primary", onclick: () => this.send() }, "Send");
    this.stopButton = el("button", { type: "button", disabled: true, onclick: () => this.stop() }, "Stop");
    const fresh = el("button", { type: "button", onclick: () => this.panes.forEach((pane) => pane.clear()) }, "New conversation");
    this.body = el("div", { class: "panes" }, this.panes.map((pane) => pane.element));
    this.element = el("div", { class: "chat" },
      el("div", { class: "head" }, el("h1", { tabindex: "-1" }, "Chat"), this.isTwo.label, this.hasOdds.label, fresh),
      this.said, this.body, el("div", { class: "composer" }, this.prompt, this.sendButton, this.stopButton));
    this.#arrange();
  }

  load(life) {
    return isDone(this.said, life, async () => {
      const names = (await get("v1/models", { signal: life })).data.map(({ id }) => id);
      this.panes[0].offer(names, names[0]);
      this.panes[1].offer(names, names[1] ?? names[0]);
      put(this.said, !names.length && el("p", { class: "card faint" }, coded("No model is served yet. `mulm serve demo` does it"),
        session.current?.scope === "all" && [", or the form under ", el("a", { href: "#/deployments" }, "Deployments")], "."));
    });
  }

  async send() {
    const text = this.prompt.value.trim();
    const panes = this.#shown;
    if (!text || panes.some((pane) => pane.isBusy)) return;
    this.prompt.value = "";
    this.#busy(true);
    await Promise.all(panes.map((pane) => pane.send(text, this.hasOdds.input.checked)));
    this.#busy(false);
  }

  end() {
    this.#life.abort();
    this.stop();
  }

  stop() {
    this.panes.forEach((pane) => pane.stop());
  }

  get #shown() {
    return this.isTwo.input.checked ? this.panes : this.panes.slice(0, 1);
  }

  #busy(isBusy) {
    this.sendButton.disabled = isBusy;
    this.stopButton.disabled = !isBusy;
    if (!isBusy && this.element.isConnected) this.prompt.focus();
  }

  #arrange() {
    this.panes[1].element.hidden = !this.isTwo.input.checked;
    this.body.classList.toggle("two", this.isTwo.input.checked);
    this.body.classList.toggle("odds", this.hasOdds.input.checked);
  }
}

function toggle(name, act, isOn = false) {
  const input = el("input", { type: "checkbox", checked: isOn, onchange: act });
  return { input, label: el("label", { class: "check" }, input, name) };
}
