// Server-sent events out of a fetched body; `EventSource` cannot send a key. Used by `feed` and the
// chat. Invariant: an event is given out only when it is whole.

const SILENCE_MS = 45_000; // three heartbeats of the server

/** {id, event, data} of each event. Ends with the body; fails when it breaks or goes silent. */
export async function* eventsOf(body, silenceMs = SILENCE_MS) {
  const reader = body.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "";
  try {
    for (;;) {
      const { value, done } = await within(silenceMs, reader.read());
      if (done) return;
      rest += value;
      const end = rest.lastIndexOf("\n\n");
      if (end < 0) continue;
      const whole = rest.slice(0, end).split("\n\n");
      rest = rest.slice(end + 2);
      for (const event of whole.map(parsed)) if (event) yield event;
    }
  } finally {
    reader.cancel().catch(() => {}); // it may be broken already
  }
}

function parsed(block) {
  const event = { id: "", event: "message", data: null };
  for (const line of block.split("\n")) {
    const at = line.indexOf(":");
    const name = line.slice(0, at);
    const value = line.slice(at + 1).replace(/^ /, "");
    if (name === "data") event.data = event.data === null ? value : `${event.data}\n${value}`;
    else if (name === "id" || name === "event") event[name] = value;
  }
  return event.data === null ? null : event;
}

function within(ms, promise) {
  let timer;
  const late = new Promise((_, fail) => {
    timer = setTimeout(() => fail(new Error("the stream went silent")), ms);
  });
  return Promise.race([promise, late]).finally(() => clearTimeout(timer));
}
