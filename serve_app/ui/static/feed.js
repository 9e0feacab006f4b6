// One run as its events tell it, live. Used by the view of a run. Invariant: an event is taken once
// and in order: after a disconnect the stream goes on behind `Last-Event-ID`.

import { ApiError, part, pause, request, seen } from "./api.js";
import { connection } from "./connection.js";
import { eventsOf } from "./stream.js";

const ENDS = new Set(["succeeded", "failed", "cancelled"]);
const NOTES_KEPT = 500;
const TELL_MS = 100;
const RETRY_MS = 500;
const HIDDEN_MS = 20_000;

export class RunFeed extends EventTarget {
  rows = new Map(); // step -> numbers; a step that was done again has those of the last time
  samples = new Map(); // step -> [{prompt, text}]
  notes = []; // everything else that happened
  progress = null;
  lastSeq = 0;
  hasEnded = false;
  #telling = 0;

  constructor(runId) {
    super();
    this.runId = runId;
  }

  /** Take in all events until the run or `life` ends. Throws ApiError where the server refuses. */
  async follow(life) {
    this.hasEnded = false;
    while (!life.aborted && !this.hasEnded) {
      await seen(life); // a browser opens six connections to a server: hidden tabs leave theirs
      await connection.back(life);
      const turn = new AbortController();
      const stop = () => turn.abort();
      const unwatch = whenHidden(HIDDEN_MS, stop);
      life.addEventListener("abort", stop, { once: true });
      try {
        await this.#read(turn.signal);
      } catch (error) {
        if (error instanceof ApiError && error.status && error.status < 500) throw error;
        if (!turn.signal.aborted) connection.failed();
      } finally {
        life.removeEventListener("abort", stop);
        unwatch();
      }
      if (!this.hasEnded) await pause(RETRY_MS, life);
    }
  }

  /** The rows in the order of their steps. */
  sorted() {
    return [...this.rows.values()].sort((a, b) => a.step - b.step);
  }

  async #read(signal) {
    const reply = await request("GET", `api/v1/runs/${part(this.runId)}/events`, {
      signal, headers: { accept: "text/event-stream", "last-event-id": String(this.lastSeq) },
    });
    if (reply.status === 204) return this.#end();
    for await (const { id, event, data } of eventsOf(reply.body)) {
      if (id) this.#take(Number(id), event, JSON.parse(data));
    }
  }

  #take(seq, kind, { data, created_at: time }) {
    if (seq <= this.lastSeq) return;
    this.lastSeq = seq;
    if (kind === "metric") this.rows.set(data.step, { ...this.rows.get(data.step), ...data });
    else if (kind === "progress") this.progress = data;
    else if (kind === "sample") this.#sample(data);
    else {
      this.notes.push({ kind, data, time });
      if (this.notes.length > NOTES_KEPT) this.notes.shift();
    }
    if (kind === "phase" && ENDS.has(data.phase)) this.#end();
    this.#tell();
  }

  #sample({ step, prompt, text }) {
    const others = (this.samples.get(step) ?? []).filter((known) => known.prompt !== prompt);
    this.samples.set(step, [...others, { prompt, text }]);
  }

  #end() {
    this.hasEnded = true;
    this.#tell();
  }

  /** Tell listeners, for many events at once. */
  #tell() {
    this.#telling ||= setTimeout(() => {
      this.#telling = 0;
      this.dispatchEvent(new Event("change"));
    }, TELL_MS);
  }
}

/** Call `act` when the page has not been looked at for a while; returns how to stop watching. */
function whenHidden(ms, act) {
  let timer = 0;
  const look = () => {
    clearTimeout(timer);
    if (document.hidden) timer = setTimeout(act, ms);
  };
  document.addEventListener("visibilitychange", look);
  return () => {
    clearTimeout(timer);
    document.removeEventListener("visibilitychange", look);
  };
}
