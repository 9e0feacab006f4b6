// The sign-in: asks for the API key once. Shown by `app` where there is no session.

import { ApiError, request } from "./api.js";
import { el, put } from "./dom.js";
import { session } from "./session.js";

const FIRST_KEY = 'cat "${MULM_HOME:-$HOME/.mulm}/api_key"';

/** Show it; `reason` says why the last session ended. */
export function signIn(main, reason = "") {
  const key = el("input", {
    id: "key", name: "key", type: "password", autocomplete: "off", spellcheck: "false", required: true,
    "aria-describedby": "key-help", placeholder: "mulm_sk_…",
  });
  const remember = el("input", { type: "checkbox", id: "remember" });
  const button = el("button", { type: "submit", class: "primary" }, "Sign in");
  const said = el("p", { class: "error", role: "alert" }, reason);
  const form = el("form", { class: "card signin", onsubmit: (event) => {
    event.preventDefault();
    enter(key, remember.checked, button, said);
  } },
    el("h1", { tabindex: "-1" }, "Sign in"),
    el("label", { for: "key" }, "API key"), key,
    el("p", { id: "key-help", class: "faint" }, "The first one is printed by ",
      el("code", {}, FIRST_KEY), " on the machine that runs µLM; ", el("code", {}, "mulm key make NAME"), " makes another."),
    el("label", { class: "check" }, remember, "Remember it on this device"),
    said, button);
  put(main, form);
  key.focus();
}

async function enter(input, isRemembered, button, said) {
  const key = input.value.trim();
  put(said);
  if (!/^[\x21-\x7e]+$/.test(key)) return put(said, "A key has no spaces and only plain characters.");
  button.disabled = true;
  try {
    session.begin(key, await scopeOf(key), isRemembered);
  } catch (error) {
    put(said, error instanceof ApiError ? `${error.message}.` : String(error));
    input.select();
  } finally {
    button.disabled = false;
  }
}

/** What the key is for; throws ApiError where it is for nothing. */
async function scopeOf(key) {
  try {
    await request("GET", "api/v1/runs?limit=1", { key });
  } catch (error) {
    if (error.status === 403) return "inference";
    throw error;
  }
  return "all";
}
