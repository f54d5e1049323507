// The page of one coordinator: listens, and hands what comes to its parts. Reads only.

import { Charts } from "./charts.js";
import { Detail } from "./detail.js";
import { count, elapsed, rate, say, span } from "./format.js";
import { StageGraph } from "./graph.js";
import { Happened, showDead } from "./happened.js";

const SILENT_MS = 5000; // without a message: what is shown is old
const AGAIN_MS = 2000;
const SENTENCE_MS = 4000; // the same kind of verdict is worded anew no more often

const $ = (id) => document.getElementById(id);
const charts = new Charts($("charts"));
const happened = new Happened($("timeline"), $("events"));
const graph = new StageGraph($("graph"), (name) => select(name === chosen ? "" : name));
const detail = new Detail($("detail"), () => {
  const before = chosen;
  select("");
  document.querySelector(`[data-stage="${CSS.escape(before)}"]`)?.focus();
});
let chosen = "";
let view = null;
let heardAt = 0;
let source = null;

function listen() {
  source?.close();
  source = new EventSource("api/live");
  source.addEventListener("history", (message) => charts.load(JSON.parse(message.data)));
  source.addEventListener("event", (message) => happened.add(JSON.parse(message.data)));
  source.addEventListener("view", (message) => {
    const seen = JSON.parse(message.data);
    if (seen) show(seen);
  });
  source.addEventListener("error", () => {
    lost();
    // The browser comes back by itself unless the answer was no stream.
    if (source.readyState === EventSource.CLOSED) setTimeout(listen, AGAIN_MS);
  });
}

function show(seen) {
  if (view && view.run.run_id !== seen.run.run_id) {
    view = null; // another run at the same address: nothing of the old one counts
    happened.clear();
    listen();
    return;
  }
  view = seen;
  heardAt = performance.now();
  document.body.dataset.link = "live";
  say($("link"), "live");
  $("lost").hidden = true;
  showAbout(seen.run);
  showVerdict(seen.verdict);
  showNow(seen);
  graph.show(seen);
  showDead($("dead"), seen.rates.stages);
  if (seen.point) charts.add(seen.point);
  happened.drawLine(seen.run.at_s);
  showChosen();
}

function showAbout(run) {
  const phase = run.paused ? "paused" : run.phase;
  say($("topology"), run.topology);
  say($("run"), run.run_id);
  say($("phase"), phase);
  $("phase").dataset.phase = phase;
  say($("elapsed"), elapsed(run.elapsed_s));
}

let worded = { kind: "", stage: "", at: -SENTENCE_MS };

function showVerdict(verdict) {
  const now = performance.now();
  const same = worded.kind === verdict.kind && worded.stage === verdict.stage;
  if (same && now - worded.at < SENTENCE_MS) return;
  worded = { kind: verdict.kind, stage: verdict.stage, at: now };
  $("verdict").dataset.kind = verdict.kind;
  say($("sentence"), verdict.sentence);
  $("try").hidden = !verdict.command;
  say($("try").querySelector("code"), verdict.command);
  const notes = verdict.notes.map((note) => {
    const item = document.createElement("li");
    item.textContent = note;
    return item;
  });
  $("notes").replaceChildren(...notes);
}

function showNow({ rates }) {
  const sum = (kind) =>
    rates.stages
      .filter((stage) => stage.kind === kind)
      .reduce((total, stage) => total + stage.rate_per_s, 0);
  const waiting = rates.edges.reduce((total, edge) => total + edge.queue_items, 0);
  const dead = rates.stages.reduce((total, stage) => total + stage.dead_letters, 0);
  const cores = Object.values(rates.cpu_by_host).reduce((total, used) => total + used, 0);
  say($("now-in"), `${rate(sum("source"))}/s`);
  say($("now-out"), `${rate(sum("sink"))}/s`);
  say($("now-waiting"), count(waiting));
  say($("now-p50"), span(rates.latency_p50_s));
  say($("now-p99"), span(rates.latency_p99_s));
  say($("now-cpu"), `${cores.toFixed(1)} in use`);
  say($("now-dead"), count(dead));
  $("now-dead").dataset.some = String(dead > 0);
  document.title = `${view.run.topology} · ${rate(sum("sink"))}/s`;
}

function select(name) {
  chosen = name;
  graph.select(name);
  showChosen();
}

function showChosen() {
  const stages = view?.rates.stages ?? [];
  const index = stages.findIndex((stage) => stage.name === chosen);
  charts.select(index < 0 ? "" : chosen, index);
  if (index < 0) detail.hide();
  else detail.show(stages[index], happened.movesOf(chosen));
}

function lost() {
  document.body.dataset.link = "lost";
  say($("link"), "no connection");
  const ended = view?.run.phase === "finish";
  const since = view ? ` What is shown is of ${clockOf(view.run.at_s)}.` : "";
  say(
    $("lost"),
    ended
      ? `The run has ended.${since}`
      : `The coordinator is not heard; the run has ended, or goes on without it.${since} ` +
          "This page tries again by itself.",
  );
  $("lost").hidden = false;
}

function clockOf(atSeconds) {
  return new Date(atSeconds * 1000).toLocaleTimeString("en-GB");
}

setInterval(() => {
  if (heardAt && performance.now() - heardAt > SILENT_MS) lost();
}, 1000);
addEventListener("keydown", (event) => {
  if (event.key === "Escape" && chosen) select("");
});
listen();
