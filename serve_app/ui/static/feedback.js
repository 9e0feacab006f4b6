// What people think of answers, newest first, whole conversations among it. A view.

import { cut, el, folded, foreign, put, table } from "./dom.js";
import { choice, listed } from "./list.js";
import { ago } from "./words.js";

const POLL_MS = 3000;
const SHOWN = 160;

export function feedbackView(main, life) {
  const opened = new Set(); // they stay open when the list is drawn anew
  const box = el("div", { class: "card" });
  const verdict = choice("Verdict", ["", "up", "down"], () => again());
  main.append(el("div", { class: "head" }, el("h1", { tabindex: "-1" }, "Feedback"), verdict.element), box);
  const again = listed(box, life, POLL_MS, "api/v1/feedback", {
    values: () => ({ verdict: verdict.value }),
    draw: (found) => table("Feedback", ["Answer", "Verdict", "Why", "Model", "Key", "When"], found.map((each) => row(each, opened)), {
      empty: verdict.value ? `Nobody said ${verdict.value}.` : "None yet. A thumb under an answer in the chat gives the first, or `POST /api/v1/feedback`.",
    }),
  });
}

function row({ id, answer, messages, verdict, comment, model, model_id: weights, key, changed_at: at }, opened) {
  const { element, body } = folded(foreign(cut(answer, SHOWN) + (answer.length > SHOWN ? " …" : "")), null, { class: "said", open: opened.has(id) });
  element.addEventListener("toggle", () => opened[element.open ? "add" : "delete"](id));
  put(body, el("ol", { class: "turns" }, [...messages, { role: "answer", content: answer }].map(({ role, content, tool_calls: calls }) =>
    el("li", {}, el("b", { class: "who" }, role), el("div", { class: "answer" },
      foreign(content, 4000), calls && foreign(JSON.stringify(calls), 4000))))));
  return [
    element, el("span", { class: `badge ${verdict === "up" ? "succeeded" : "failed"}` }, verdict),
    comment ? foreign(comment) : "–", el("span", { title: weights ?? "" }, foreign(model, 64)), el("code", {}, key),
    el("span", { class: "faint" }, ago(at)),
  ];
}
