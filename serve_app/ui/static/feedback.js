// What people think of answers, newest first. A view. Invariant: a conversation is fetched when
// somebody opens it, and once: it never changes.

import { get, part } from "./api.js";
import { el, folded, foreign, isDone, put, table } from "./dom.js";
import { choice, listed } from "./list.js";
import { ago } from "./words.js";

const POLL_MS = 3000;

export function feedbackView(main, life) {
  const opened = new Set(); // they stay open when the list is drawn anew
  const wholes = new Map(); // id -> what was opened
  const box = el("div", { class: "card" });
  const verdict = choice("Verdict", ["", "up", "down"], () => again());
  main.append(el("div", { class: "head" }, el("h1", { tabindex: "-1" }, "Feedback"), verdict.element), box);

  function row({ id, asked_start: asked, answer_start: answer, verdict, comment, model, model_id: weights, key, changed_at: at }) {
    const { element, body } = folded([foreign(answer), asked && el("small", {}, " to ", foreign(asked))], () => show(id, body),
      { class: "said", open: opened.has(id) });
    element.addEventListener("toggle", () => opened[element.open ? "add" : "delete"](id));
    return [
      element, el("span", { class: `badge ${verdict === "up" ? "succeeded" : "failed"}` }, verdict),
      comment ? foreign(comment) : "–", el("span", { title: weights ?? "" }, foreign(model, 64)), el("code", {}, key),
      el("span", { class: "faint" }, ago(at)),
    ];
  }

  function show(id, body) {
    return isDone(body, life, async () => {
      if (!wholes.has(id)) wholes.set(id, await get(`api/v1/feedback/${part(id)}`, { signal: life }));
      const { messages, answer } = wholes.get(id);
      put(body, el("ol", { class: "turns" }, [...messages, { role: "answer", content: answer }].map(({ role, content, tool_calls: calls }) =>
        el("li", {}, el("b", { class: "who" }, role), el("div", { class: "answer" },
          foreign(content, 4000), calls && foreign(JSON.stringify(calls), 4000))))));
    });
  }

  const again = listed(box, life, POLL_MS, "api/v1/feedback", {
    values: () => ({ verdict: verdict.value }),
    draw: (found) => table("Feedback", ["Answer", "Verdict", "Why", "Model", "Key", "When"], found.map(row), {
      empty: verdict.value ? `Nobody said ${verdict.value}.` : "None yet. A thumb under an answer in the chat gives the first, or `POST /api/v1/feedback`.",
    }),
  });
}
