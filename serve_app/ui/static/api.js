// Requests to the server that the page came from. Used by all views. Invariants: each carries the
// key as Bearer; a failure is an `ApiError` with the server's own words; a key that is not valid any
// more ends the session.

import { connection } from "./connection.js";
import { session } from "./session.js";

/** What the server says is wrong; `status` 0 where it did not answer. */
export class ApiError extends Error {
  constructor(status, message, { code = "", param = "", hint = "", requestId = "" } = {}) {
    super(message);
    Object.assign(this, { status, code, param, hint, requestId });
  }
}

/** The reply to a request that went well; `body` is sent as JSON. */
export async function request(method, path, { body, headers = {}, signal, key } = {}) {
  const sent = { ...headers, authorization: `Bearer ${key ?? session.current?.key ?? ""}` };
  if (body !== undefined) sent["content-type"] = "application/json";
  let reply;
  try {
    reply = await fetch(path, {
      method, signal, headers: sent, cache: "no-store", credentials: "omit", redirect: "error",
      body: body === undefined ? undefined : JSON.stringify(body),
    });
  } catch (error) {
    if (signal?.aborted) throw error;
    connection.failed();
    throw new ApiError(0, "the server does not answer");
  }
  connection.answered();
  if (reply.ok) return reply;
  const failure = await problemOf(reply);
  if (reply.status === 401 && key === undefined) session.end(failure.message);
  throw failure;
}

/** The body of a GET, as JSON. */
export async function get(path, options) {
  return (await request("GET", path, options)).json();
}

/** `path?a=1&b=2`; what is null, undefined or empty is left out. */
export function query(path, values) {
  const given = Object.entries(values).filter(([, value]) => value != null && value !== "");
  return given.length ? `${path}${path.includes("?") ? "&" : "?"}${new URLSearchParams(given)}` : path;
}

/** The first `n` pages of a list as one: {data, hasMore}. */
export async function pages(path, values, n, signal) {
  const data = [];
  let hasMore = true;
  for (let at = 0; at < n && hasMore; at++) {
    const page = await get(query(path, { ...values, after: data.at(-1)?.id }), { signal });
    data.push(...page.data);
    hasMore = page.has_more;
  }
  return { data, hasMore };
}

/** One part of a path. */
export const part = encodeURIComponent;

/** Our problem (RFC 9457) or OpenAI's error object, whichever it is. */
async function problemOf(reply) {
  const told = await reply.json().catch(() => ({}));
  const inner = told.error ?? {};
  return new ApiError(reply.status, told.detail ?? inner.message ?? `HTTP ${reply.status}`, {
    code: told.code ?? inner.code ?? "", param: told.param ?? inner.param ?? "", hint: told.hint ?? "",
    requestId: reply.headers.get("x-request-id") ?? "",
  });
}

/** Do something now and every `ms` until `life` ends, while it is looked at and the server answers. */
export async function every(ms, life, act, tell) {
  while (!life.aborted) {
    await seen(life);
    await connection.back(life);
    if (life.aborted) return;
    await act().catch((error) => life.aborted || error.status === 0 || tell(error));
    await pause(ms, life);
  }
}

/** Resolves after so many milliseconds, or when `life` ends. */
export function pause(ms, life) {
  return new Promise((wake) => {
    const timer = setTimeout(wake, ms);
    life.addEventListener("abort", () => (clearTimeout(timer), wake()), { once: true });
  });
}

/** Resolves when somebody looks at the page, or `life` ends. */
export function seen(life) {
  if (!document.hidden) return Promise.resolve();
  return new Promise((wake) => {
    document.addEventListener("visibilitychange", wake, { once: true, signal: life });
    life.addEventListener("abort", wake, { once: true });
  });
}
