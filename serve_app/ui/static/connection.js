// Whether the server answers. Told by `api` after each request, shown as the banner. Invariant:
// while it does not answer it is asked for a sign of life again and again, and who waits is woken
// once it does.

const FIRST_MS = 500;
const LAST_MS = 5000;

class Connection extends EventTarget {
  isUp = true;
  #asking = false;

  answered() {
    if (this.isUp) return;
    this.isUp = true;
    this.dispatchEvent(new Event("change"));
  }

  failed() {
    if (this.isUp) {
      this.isUp = false;
      this.dispatchEvent(new Event("change"));
    }
    this.#ask();
  }

  /** Resolves once the server answers, or `life` has ended. */
  async back(life) {
    while (!this.isUp && !life.aborted) {
      await new Promise((wake) => {
        this.addEventListener("change", wake, { once: true });
        life.addEventListener("abort", wake, { once: true });
      });
    }
  }

  async #ask() {
    if (this.#asking) return;
    this.#asking = true;
    for (let pause = FIRST_MS; !this.isUp; pause = Math.min(2 * pause, LAST_MS)) {
      await new Promise((wake) => setTimeout(wake, pause));
      try {
        const reply = await fetch("healthz", { cache: "no-store", signal: AbortSignal.timeout(LAST_MS) });
        if (reply.ok) this.answered();
      } catch {
        // still gone: the banner says so
      }
    }
    this.#asking = false;
  }
}

export const connection = new Connection();
