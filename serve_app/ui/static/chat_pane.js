// One conversation with one model. Two of them stand side by side in the chat. Invariant: what is
// sent is what is shown, turn by turn; an answer that was stopped counts as far as it came, and is
// judged as such.

import { request } from "./api.js";
import { el, foreign, problem, put } from "./dom.js";
import { eventsOf } from "./stream.js";
import { thumbs } from "./thumbs.js";
import { Answer } from "./tokens.js";
import { number } from "./words.js";

const TOP = 5;

export class ChatPane {
  #turns = []; // OpenAI's messages
  #stop = null;

  /** `life` is that of the whole chat, which outlives a view. */
  constructor(name, life) {
    this.life = life;
    this.model = el("select", { "aria-label": `Model ${name}` });
    this.temperature = field("Temperature", { type: "number", min: 0, max: 2, step: 0.1, value: 0.8 });
    this.length = field("Most tokens", { type: "number", min: 1, step: 1, value: 200 });
    this.seed = field("Seed", { type: "number", step: 1, placeholder: "any" });
    this.system = el("textarea", { rows: 2, "aria-label": `System prompt ${name}`, placeholder: "System prompt" });
    this.list = el("ol", { class: "turns", "aria-label": `Conversation ${name}` });
    this.state = el("p", { class: "faint", "aria-live": "polite" });
    this.element = el("section", { class: "card pane", "aria-label": `Conversation ${name}` },
      el("div", { class: "head" }, this.model),
      el("details", {}, el("summary", {}, "Settings"),
        el("div", { class: "fields" }, this.temperature.label, this.length.label, this.seed.label), this.system),
      this.list, this.state);
  }

  get isBusy() {
    return this.#stop !== null;
  }

  /** Offer these names; the chosen one stays if it is among them. */
  offer(names, fallback) {
    const chosen = names.includes(this.model.value) ? this.model.value : fallback;
    put(this.model, names.map((name) => el("option", { value: name, selected: name === chosen }, name)));
  }

  clear() {
    this.stop();
    this.#turns = [];
    put(this.list);
    put(this.state);
  }

  stop() {
    this.#stop?.abort();
  }

  /** Say something and take in the answer. */
  async send(text, hasLogprobs) {
    const stop = (this.#stop = new AbortController());
    const answer = new Answer();
    const at = performance.now();
    this.#turns.push({ role: "user", content: text });
    const body = this.#body(hasLogprobs);
    const told = turn("Model", answer.element);
    this.list.append(turn("You", el("div", { class: "answer" }, foreign(text, 20_000))), told);
    put(this.state, "…");
    let from = {};
    try {
      await this.#read(answer, body, stop.signal, at, (chunk) => { from = chunk; });
    } catch (error) {
      put(this.state, stop.signal.aborted ? "stopped" : problem(error));
    }
    answer.end();
    if (answer.content) {
      this.#turns.push({ role: "assistant", content: answer.content });
      told.append(thumbs({ model: body.model, messages: body.messages, answer: answer.content, model_id: from.system_fingerprint, answer_id: from.id }, this.life));
    } else this.#turns.pop(); // nobody answered: the next turn does not follow on it
    if (this.#stop === stop) this.#stop = null;
  }

  async #read(answer, body, signal, at, begun) {
    const reply = await this.#ask(body, signal);
    let [first, reason, usage] = [null, "", null];
    for await (const { data } of eventsOf(reply.body)) {
      if (data === "[DONE]") break;
      const chunk = JSON.parse(data);
      if (chunk.error) throw chunk.error;
      begun(chunk);
      const choice = chunk.choices?.[0];
      usage = chunk.usage ?? usage;
      if (!choice) continue;
      const content = choice.delta?.content ?? "";
      if (content) first ??= performance.now();
      answer.add(content, choice.logprobs?.content);
      reason = choice.finish_reason ?? reason;
    }
    const n = usage?.completion_tokens;
    const seconds = (performance.now() - first) / 1000;
    put(this.state, [n && `${number(n)} tokens`, first && `first after ${Math.round(first - at)} ms`,
      n > 1 && first && `${number((n - 1) / seconds, 3)} tokens/s`, reason === "length" && "cut at the most tokens"].filter(Boolean).join(", "));
  }

  /** Where the conversation fits into the window and the most tokens beside it do not, as many as fit. */
  async #ask(body, signal) {
    try {
      return await request("POST", "v1/chat/completions", { signal, body });
    } catch (error) {
      if (error.code !== "context_length_exceeded" || error.param !== "max_tokens") throw error;
      return this.#ask({ ...body, max_tokens: undefined }, signal);
    }
  }

  #body(hasLogprobs) {
    const system = this.system.value.trim();
    return {
      model: this.model.value,
      messages: [...(system ? [{ role: "system", content: system }] : []), ...this.#turns],
      stream: true, stream_options: { include_usage: true },
      ...given({ temperature: this.temperature.input, max_tokens: this.length.input, seed: this.seed.input }),
      ...(hasLogprobs ? { logprobs: true, top_logprobs: TOP } : {}),
    };
  }
}

function given(inputs) {
  const filled = Object.entries(inputs).filter(([, input]) => input.value !== "");
  return Object.fromEntries(filled.map(([name, input]) => [name, input.valueAsNumber]));
}

function field(name, attributes) {
  const input = el("input", attributes);
  return { input, label: el("label", {}, name, input) };
}

function turn(who, content) {
  return el("li", { class: who === "You" ? "you" : "model" }, el("b", { class: "who" }, who), content);
}
