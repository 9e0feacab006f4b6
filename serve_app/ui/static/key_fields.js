// What a key may use: models, an end, limits, as fields of a form. Used by the view of keys, for a
// new key and for a change. Invariants: what is left empty has no limit; of a change only what
// somebody has changed is sent, so that what others have set meanwhile stays.

import { el } from "./dom.js";

const DAY_S = 86_400;
const LIVES = [["for ever", ""], ["for a day", DAY_S], ["for 30 days", 30 * DAY_S], ["for a year", 365 * DAY_S]];
const AS_IT_IS = "as it is";
const LIMITS = {
  requests_per_minute: "Requests a minute", tokens_per_minute: "Tokens a minute",
  max_concurrent: "At the same time", token_quota: "Tokens in all",
};

/** {elements, values()}; `key` is the one that is changed, none for a new one. */
export function keyFields(key = null) {
  const models = el("input", { placeholder: "all; or names, with commas", value: key?.models.join(", ") ?? "", spellcheck: "false" });
  const lives = key ? [[AS_IT_IS, AS_IT_IS], ...LIVES.map(([words, value]) => [value ? `${words} from now` : words, value])] : LIVES;
  const lasts = el("select", {}, lives.map(([words, value]) => el("option", { value }, words)));
  const limits = Object.keys(LIMITS).map((name) =>
    [name, el("input", { type: "number", min: 1, step: 1, placeholder: "no limit", value: key?.limits[name] })]);
  return {
    elements: [el("label", {}, "Models", models), el("label", {}, "Valid", lasts),
      limits.map(([name, input]) => el("label", {}, LIMITS[name], input))],
    values() {
      const otherwise = limits.filter(([, input]) => isChanged(input))
        .map(([name, input]) => [name, input.value === "" ? null : input.valueAsNumber]);
      return {
        ...(isChanged(models) && { models: models.value.split(",").map((name) => name.trim()).filter(Boolean) }),
        ...(lasts.value !== AS_IT_IS && { expires_in_s: lasts.value ? Number(lasts.value) : null }),
        ...(otherwise.length && { limits: Object.fromEntries(otherwise) }),
      };
    },
  };
}

const isChanged = (input) => input.value !== input.defaultValue;

/** Limits in words. */
export function limitWords(limits) {
  const set = Object.keys(LIMITS).filter((name) => limits[name] != null);
  return set.map((name) => `${LIMITS[name].toLowerCase()} ${limits[name].toLocaleString("en")}`).join(", ") || "none";
}
