// One stage: its replicas, partitions and how they ended last. Decides layout and wording.

import { count, leading, make, rate, say, share, size } from "./format.js";

const HEADINGS = [
  ["slot", ""],
  ["state", ""],
  ["pid", "number"],
  ["host", ""],
  ["time", ""],
  ["items/s", "number"],
  ["queue", "number"],
  ["cpu", "number"],
  ["memory", "number"],
  ["restarts", "number"],
  ["partitions", "owned"],
];

export class Detail {
  constructor(place, onClose) {
    this.place = place;
    this.title = make("h2", { id: "detail-title" });
    this.facts = make("p", { class: "facts" });
    this.rows = make("tbody");
    this.errors = make("div", { class: "errors" });
    const close = make("button", { type: "button", "aria-label": "close" }, "close");
    close.addEventListener("click", onClose);
    const head = make("tr");
    for (const [word, kind] of HEADINGS) head.append(make("th", { scope: "col", class: kind }, word));
    const table = make("table", { class: "replicas" }, make("thead", {}, head), this.rows);
    place.append(
      make("div", { class: "head" }, this.title, close),
      this.facts,
      make("div", { class: "scroll", tabindex: "0", "aria-label": "Replicas" }, table),
      this.errors,
    );
  }

  hide() {
    this.place.hidden = true;
  }

  show(stage, moves) {
    this.place.hidden = false;
    say(this.title, stage.name);
    say(this.facts, factsOf(stage, moves));
    this.rows.replaceChildren(...stage.replicas.map((one) => row(one, stage)));
    this.place.dataset.keyed = String(stage.partitions > 0);
    const ended = stage.replicas.filter((one) => one.last_error);
    const signature = JSON.stringify(ended.map((one) => [one.slot, one.last_error]));
    if (this.errors.dataset.shown === signature) return; // a text that is selected stays so
    this.errors.dataset.shown = signature;
    this.errors.replaceChildren(
      ...ended.flatMap((one) => [
        make("h3", {}, `How ${one.slot} ended before`),
        make("pre", { tabindex: "0" }, one.last_error),
      ]),
    );
  }
}

function factsOf(stage, moves) {
  const facts = [
    stage.kind,
    `${count(stage.items)} items`,
    `${count(stage.errors)} errors`,
    `${count(stage.dead_letters)} dead letters`,
  ];
  if (stage.partitions) {
    facts.push(`${stage.partitions} partitions`);
    if (moves.length) facts.push(`last move: ${moves.at(-1)}`);
  }
  return facts.join(" · ");
}

function row(one, stage) {
  const lives = one.state !== "down";
  const state = leading(one.times);
  const time = state ? `${state} ${share(one.times[`${state}_ratio`])}` : "-";
  const cells = [
    one.slot,
    one.state,
    lives ? String(one.pid) : "-",
    one.host || "-",
    time,
    rate(one.rate_per_s),
    count(one.queue_items),
    lives ? share(one.cpu_ratio) : "-",
    lives ? size(one.memory_bytes) : "-",
    count(one.restarts),
    owned(one, stage.owners),
  ];
  return make(
    "tr",
    { "data-state": state || "other", "data-down": String(!lives) },
    ...cells.map((text, k) => make("td", { class: HEADINGS[k][1] }, text)),
  );
}

// The partitions that a slot owns: how many, and which.
function owned(one, owners) {
  const index = Number(one.slot.slice(one.slot.lastIndexOf("/") + 1));
  const found = owners.flatMap((owner, partition) => (owner === index ? [partition] : []));
  if (!found.length) return "-";
  const shown = found.length > 8 ? [...found.slice(0, 7), "…"] : found;
  return `${found.length}: ${shown.join(" ")}`;
}
