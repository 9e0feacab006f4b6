// The page's frame: which view is shown, the navigation, the banner. Begins by itself. Invariants:
// the address says what is shown, so that a reload and a link lead back; a view that is left is
// ended, with all that it waits for.

import { auditView } from "./audit.js";
import { chatView } from "./chat.js";
import { compareView } from "./compare.js";
import { connection } from "./connection.js";
import { datasetCards } from "./datasets.js";
import { deploymentsView } from "./deployments.js";
import { el, foreign, put, titled } from "./dom.js";
import { modelCards } from "./evaluations.js";
import { feedbackView } from "./feedback.js";
import { keysView } from "./keys.js";
import { runView } from "./run.js";
import { runsView } from "./runs.js";
import { session } from "./session.js";
import { signIn } from "./signin.js";
import { versionView, versionsView } from "./versions.js";

/** `open(main, life, argument)` draws a view; `one` does where the address has a second part. */
const VIEWS = {
  runs: { title: "Runs", open: runsView, one: runView },
  compare: { title: "Compare", open: compareView, one: compareView, isHidden: true },
  datasets: {
    title: "Datasets",
    open: versionsView("datasets", "Datasets", "No datasets yet. `mulm data build examples/sample.yaml` makes one."),
    one: versionView("datasets", datasetCards),
  },
  models: {
    title: "Models",
    open: versionsView("models", "Models", "No models yet. `mulm train examples/demo.yaml` makes one."),
    one: versionView("models", modelCards),
  },
  tokenizers: {
    title: "Tokenizers", isHidden: true,
    open: versionsView("tokenizers", "Tokenizers", "No tokenizers yet. A dataset brings its own; `mulm tokenizer train DATASET --name NAME` makes one alone."),
    one: versionView("tokenizers"),
  },
  deployments: { title: "Deployments", open: deploymentsView },
  chat: { title: "Chat", open: chatView, isForAll: true },
  feedback: { title: "Feedback", open: feedbackView },
  keys: { title: "Keys", open: keysView },
  audit: { title: "Audit", open: auditView },
};

const main = document.getElementById("main");
let life = new AbortController();

function mayOpen(name) {
  return VIEWS[name].isForAll || session.current?.scope === "all";
}

/** Whether the address is one of ours. */
function isThere(name, argument) {
  return Object.hasOwn(VIEWS, name) && (!argument || Boolean(VIEWS[name].one));
}

/** The address as [view, argument]. */
function place() {
  const [name, argument] = location.hash.replace(/^#\/?/, "").split("/");
  try {
    return [name, argument && decodeURIComponent(argument)];
  } catch {
    return [name, undefined];
  }
}

function open() {
  life.abort();
  life = new AbortController();
  put(main);
  if (!session.current) return frame(""), signIn(main);
  const [name, argument] = place();
  if (name && !isThere(name, argument)) nowhere();
  else if (!name || !mayOpen(name)) return location.replace(mayOpen("runs") ? "#/runs" : "#/chat");
  else show(name, argument);
  window.scrollTo(0, 0);
  main.querySelector("h1")?.focus();
}

function show(name, argument) {
  const view = VIEWS[name];
  frame(name);
  titled(argument || view.title);
  (argument ? view.one : view.open)(main, life.signal, argument);
}

/** For an address that leads nowhere: mistyped, or of another version of the page. */
function nowhere() {
  frame("");
  titled("No such page");
  main.append(el("section", { class: "card grid" }, el("h1", { tabindex: "-1" }, "No such page"),
    el("p", {}, "Nothing is at ", foreign(location.hash, 80, "code"), ". There are:"),
    el("ul", { class: "places", "aria-label": "Pages" }, links().map((link) => el("li", {}, link)))));
}

/** To every view that the key reaches. */
function links(current) {
  return Object.keys(VIEWS).filter((name) => mayOpen(name) && !VIEWS[name].isHidden).map((name) =>
    el("a", { href: `#/${name}`, "aria-current": name === current && "page", "data-key": name }, VIEWS[name].title));
}

/** The navigation. */
function frame(current) {
  put(document.getElementById("nav"), session.current ? links(current) : []);
  document.getElementById("signout").hidden = !session.current;
}

function banner() {
  put(document.getElementById("banner"),
    !connection.isUp && el("p", {}, el("b", {}, "The server does not answer."), " This page goes on by itself when it does."));
}

window.addEventListener("hashchange", open);
connection.addEventListener("change", banner);
session.addEventListener("change", ({ reason }) => {
  if (session.current) return open();
  life.abort();
  frame("");
  titled("Sign in");
  signIn(main, reason);
});
document.getElementById("signout").addEventListener("click", () => session.end());
document.querySelector(".skip").addEventListener("click", (event) => {
  event.preventDefault(); // the address belongs to the views
  main.focus();
});
open();
