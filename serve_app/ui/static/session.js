// The API key of whoever looks at the page. Used by `api` and the sign-in. Invariant: the key stays
// in this tab's storage, or on this device where that was asked for, and is sent nowhere but here.

const NAME = "mulm";

class Session extends EventTarget {
  /** {key, scope} or null. */
  get current() {
    const text = sessionStorage.getItem(NAME) ?? localStorage.getItem(NAME);
    if (text === null) return null;
    try {
      return JSON.parse(text);
    } catch {
      this.#forget();
      return null;
    }
  }

  begin(key, scope, isRemembered) {
    this.#forget();
    (isRemembered ? localStorage : sessionStorage).setItem(NAME, JSON.stringify({ key, scope }));
    this.dispatchEvent(new Event("change"));
  }

  /** Forget the key; `reason` is shown at the sign-in. */
  end(reason = "") {
    this.#forget();
    this.dispatchEvent(Object.assign(new Event("change"), { reason }));
  }

  #forget() {
    sessionStorage.removeItem(NAME);
    localStorage.removeItem(NAME);
  }
}

export const session = new Session();
