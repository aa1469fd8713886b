// Asks for JSON every few seconds and shows it. What comes from outside (prompts, errors, names) is set as text only.
"use strict";

const POLL_MS = 2000;
const REPLY_MS = 30000;
const TRIES = 4; // of a picture, where the server is busy
const STATES = ["queued", "running", "done", "failed", "cancelled"];

const byId = (id) => document.getElementById(id);

// An element with attributes (class, ...), event listeners (on...) and children (text or elements).
function make(tag, attributes = {}, ...children) {
  const node = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (name.startsWith("on")) node.addEventListener(name.slice(2), value);
    else if (value !== null && value !== undefined && value !== false) node.setAttribute(name, value === true ? "" : value);
  }
  node.append(...children.filter((child) => child !== null && child !== ""));
  return node;
}

function say(node, text) {
  if (node.textContent !== text) node.textContent = text;
}

// Keeps one child for each record, in order. Children that stay are changed in place: focus and pictures stay too.
function keep(list, records, key, create, update) {
  const known = new Map([...list.children].map((child) => [child.dataset.key, child]));
  let before = list.firstElementChild;
  for (const record of records) {
    const name = String(key(record));
    let child = known.get(name);
    known.delete(name);
    if (!child) {
      child = create(record);
      child.dataset.key = name;
    }
    update(child, record);
    if (child === before) before = before.nextElementSibling;
    else list.insertBefore(child, before);
  }
  for (const child of known.values()) child.remove();
}

const number = (value) => value.toLocaleString("en");
const numbered = (value, noun, nouns = `${noun}s`) => (value === 1 ? noun : nouns);
const plural = (value, noun, nouns) => `${number(value)} ${numbered(value, noun, nouns)}`;

function rate(value) {
  return value.toLocaleString("en", value >= 10 ? { maximumFractionDigits: 0 } : { maximumSignificantDigits: 2 });
}

function span(seconds) {
  if (seconds < 60) return `${Math.max(0, Math.round(seconds))} s`;
  if (seconds < 5400) return `${Math.round(seconds / 60)} min`;
  if (seconds < 172800) return `${(seconds / 3600).toFixed(seconds < 36000 ? 1 : 0)} h`;
  return `${Math.round(seconds / 86400)} d`;
}

let clockAhead = 0; // seconds by which this machine's clock is ahead of Redis'

const ago = (at) => `${span(Date.now() / 1000 - clockAhead - at)} ago`;

// -- asking ----------------------------------------------------------------------------------------------------

const seen = new Map(); // path -> { tag, record }

class Refused extends Error {
  constructor(status, sentence) {
    super(sentence);
    this.status = status;
  }
}

async function ask(path) {
  const known = seen.get(path);
  const headers = known ? { "If-None-Match": known.tag } : {};
  const reply = await fetch(path, { headers, cache: "no-store", signal: AbortSignal.timeout(REPLY_MS) });
  if (reply.status === 304 && known) return known.record;
  if (!reply.ok) throw new Refused(reply.status, (await reply.text()).trim());
  const record = await reply.json();
  if (seen.size > 40) seen.clear();
  seen.set(path, { tag: reply.headers.get("ETag"), record });
  return record;
}

let timer = null;
let polling = false;
let again = false; // the user chose another batch meanwhile

async function poll() {
  clearTimeout(timer);
  again = polling;
  if (polling) return;
  polling = true;
  try {
    const overview = await ask("api/overview");
    showOverview(overview);
    await pollBatch(overview);
  } catch (error) {
    showLost(error);
  } finally {
    polling = false;
    timer = setTimeout(poll, again ? 0 : document.hidden ? 10 * POLL_MS : POLL_MS);
  }
}

async function pollBatch(overview) {
  const name = chosen(overview);
  if (!overview.redis.up) return;
  if (name === null) {
    byId("chosen").hidden = true;
    document.title = "Renders";
    return;
  }
  try {
    const record = await ask(`api/batches/${encodeURIComponent(name)}`);
    if (name === chosen(overview)) showBatch(record, overview);
  } catch (error) {
    if (!(error instanceof Refused)) throw error;
    // If this batch is shown already, that stays. Another batch must not stay in its place.
    if (error.status === 404) showNoBatch(name, "there is no batch of this name");
    else if (byId("chosen").dataset.batch !== name) showNoBatch(name, error.message);
  }
}

// -- which batch -----------------------------------------------------------------------------------------------

let followed = null; // the batch that is shown while the user has not chosen one

function named() {
  const match = /^#batch=(.+)$/.exec(location.hash);
  try {
    return match ? decodeURIComponent(match[1]) : null;
  } catch {
    return null;
  }
}

function chosen(overview) {
  const name = named();
  if (name !== null) return name;
  const batches = overview.batches ?? [];
  const still = batches.find((batch) => batch.name === followed);
  if (!still || !still.counts.running) {
    const running = batches.filter((batch) => batch.counts.running);
    const best = running[0] ?? still ?? batches[0];
    followed = best ? best.name : null;
  }
  return followed;
}

// -- showing ---------------------------------------------------------------------------------------------------

function showStatus(kind, text) {
  byId("status").className = `status ${kind}`;
  say(byId("status-text"), text);
}

function showTrouble(text) {
  byId("trouble").hidden = text === null;
  say(byId("trouble"), text ?? "");
}

let lastAnswer = null;

const asOf = (date) => ` The page shows what was known at ${date.toLocaleTimeString()}.`;

function showLost(error) {
  showStatus("bad", "Not connected");
  const why = error instanceof Refused ? error.message : "producer keep does not answer.";
  showTrouble(`${why}${lastAnswer === null ? "" : asOf(lastAnswer)}`);
}

function showOverview(overview) {
  lastAnswer = new Date();
  if (overview.redis.up) {
    clockAhead = overview.looked ? clockAheadOf(overview.at) : 0;
    showStatus("good", "Live");
    const damaged = overview.damaged ?? [];
    showTrouble(damaged.length ? `What Redis has of ${damaged.join(", ")} is damaged.` : null);
  } else {
    showStatus("bad", "Redis is away");
    showTrouble(`${overview.redis.why}.${overview.looked ? asOf(new Date(overview.at * 1000)) : ""}`);
  }
  if (!overview.looked) return;
  showFigures(overview);
  showBatches(overview);
  showWorkers(overview);
}

// The newest look is at most a few seconds old, so more than a minute means that the clocks differ.
function clockAheadOf(at) {
  const difference = Date.now() / 1000 - at;
  return Math.abs(difference) > 60 ? difference : 0;
}

function showFigures(overview) {
  const { queue } = overview;
  say(byId("figure-rate"), overview.pictures_a_second ? rate(overview.pictures_a_second) : "–");
  const delayed = queue.delayed ? make("small", {}, ` +${number(queue.delayed)} later`) : null;
  byId("figure-waiting").replaceChildren(number(queue.waiting), ...(delayed ? [delayed] : []));
  say(byId("label-waiting"), `${numbered(queue.waiting, "job")} waiting`);
  say(byId("figure-unacknowledged"), number(queue.unacknowledged));
  say(byId("figure-oldest"), queue.oldest_seconds === null || !queue.waiting ? "–" : span(queue.oldest_seconds));
  const paused = overview.workers_paused ? make("small", {}, ` ${number(overview.workers_paused)} paused`) : null;
  byId("figure-workers").replaceChildren(number(overview.workers_total), ...(paused ? [paused] : []));
  say(byId("label-workers"), numbered(overview.workers_total, "worker"));
}

function stateOf(batch) {
  const { counts } = batch;
  if (counts.running) return "rendering";
  if (batch.open) return "waiting";
  if (!batch.total) return "empty";
  return counts.failed ? "ended with failures" : counts.cancelled ? "ended, some cancelled" : "done";
}

function finishedOf(counts) {
  return counts.done + counts.failed + counts.cancelled;
}

function showBatches(overview) {
  const { batches } = overview;
  const current = chosen(overview);
  keep(byId("batch-list"), batches, (batch) => batch.name, makeBatch, (item, batch) => updateBatch(item, batch, current));
  byId("no-batch").hidden = batches.length > 0;
  const hidden = overview.batches_total - batches.length;
  byId("more-batches").hidden = hidden <= 0;
  say(byId("more-batches"), `and ${plural(hidden, "more batch", "more batches")}: producer status`);
}

function makeBatch(batch) {
  const bar = make("div", { class: "bar", role: "progressbar", "aria-valuemin": "0", "aria-valuemax": "100" });
  for (const state of ["done", "failed", "cancelled"]) bar.append(make("span", { class: state }));
  return make("li", {},
    make("a", { href: `#batch=${encodeURIComponent(batch.name)}` },
      make("div", { class: "line" }, make("span", { class: "name" }, batch.name), make("span", { class: "percent" })),
      bar,
      make("div", { class: "line below" }, make("span", { class: "progress" }), make("span", { class: "pace" }))));
}

function updateBatch(item, batch, current) {
  const { counts, total } = batch;
  const finished = finishedOf(counts);
  const percent = total ? Math.floor((100 * finished) / total) : 0;
  const link = item.firstElementChild;
  if (batch.name === current) link.setAttribute("aria-current", "true");
  else link.removeAttribute("aria-current");
  say(item.querySelector(".percent"), batch.open ? `${percent} %` : stateOf(batch));
  item.querySelector(".percent").classList.toggle("bad", !batch.open && counts.failed > 0);
  const bar = item.querySelector(".bar");
  bar.setAttribute("aria-valuenow", String(percent));
  bar.setAttribute("aria-label", `${batch.name}: ${number(finished)} of ${plural(total, "job")} finished`);
  for (const part of bar.children) part.style.width = total ? `${(100 * counts[part.className]) / total}%` : "0";
  const failed = counts.failed ? make("span", { class: "bad" }, ` · ${number(counts.failed)} failed`) : "";
  item.querySelector(".progress").replaceChildren(`${number(finished)} / ${plural(total, "job")}`, failed);
  say(item.querySelector(".pace"), batch.open ? paceOf(batch) : `begun ${ago(batch.created_at)}`);
}

function paceOf(batch) {
  const parts = [];
  if (batch.pictures_a_second) parts.push(`${rate(batch.pictures_a_second)} pictures/s`);
  if (batch.seconds_left !== null) parts.push(`${span(batch.seconds_left)} left`);
  return parts.length ? parts.join(" · ") : stateOf(batch);
}

// -- the chosen batch ------------------------------------------------------------------------------------------

function showBatch(record, overview) {
  const section = byId("chosen");
  const batch = (overview.batches ?? []).find((one) => one.name === record.name);
  const { counts, total } = batch ?? record; // the list's are newer
  const isOther = section.dataset.batch !== record.name;
  section.dataset.batch = record.name;
  section.hidden = false;
  say(byId("chosen-title"), record.name);
  const state = batch ? [stateOf(batch), ...(batch.open ? [paceOf(batch)] : [])] : [];
  if (record.damaged) state.push(record.damaged);
  say(byId("chosen-state"), [...new Set(state)].join(" · "));
  say(byId("chosen-where"), `from ${record.source} to ${record.folder} · begun ${ago(record.created_at)}`);
  showCounts(counts);
  showFailures(record);
  showWaits(record.waits);
  showPictures(record, isOther);
  document.title = total ? `${Math.floor((100 * finishedOf(counts)) / total)} % · ${record.name}` : record.name;
}

function showNoBatch(name, why) {
  const section = byId("chosen");
  section.hidden = false;
  section.dataset.batch = name;
  say(byId("chosen-title"), name);
  say(byId("chosen-state"), why);
  say(byId("chosen-where"), "");
  byId("chosen-counts").replaceChildren();
  byId("chosen-failures").hidden = byId("chosen-waits").hidden = true;
  byId("picture-list").replaceChildren();
  byId("no-picture").hidden = byId("pictures-title").hidden = true;
  document.title = name;
}

function showCounts(counts) {
  const shown = STATES.filter((state) => counts[state] || state === "done");
  keep(byId("chosen-counts"), shown, (state) => state,
    (state) => make("div", { class: state }, make("dt", {}, state), make("dd")),
    (item, state) => say(item.lastElementChild, number(counts[state])));
}

// Redrawn only where it changed, so that a text stays while the user selects or scrolls it.
function redraw(node, record, children) {
  const text = JSON.stringify(record);
  if (node.dataset.shown === text) return;
  node.dataset.shown = text;
  node.replaceChildren(...children());
}

function showFailures(record) {
  const box = byId("chosen-failures");
  const { failures, counts } = record;
  box.hidden = failures.length === 0;
  const looked = record.failures_looked_at;
  const title = counts.failed > looked ? `${plural(counts.failed, "job")} failed; the list has the last ${number(looked)}`
    : `${plural(looked, "job")} failed`;
  redraw(box, [record.name, title, failures], () => [make("h3", {}, title), ...failures.flatMap(failureGroup)]);
}

function failureGroup(group) {
  const items = group.reasons.map((reason) => {
    const more = reason.jobs > reason.rows.length ? ", …" : "";
    const rows = `${numbered(reason.jobs, "row")} ${reason.rows.join(", ")}${more}`;
    return make("li", {}, reason.text, " ", make("small", {}, `(${rows})`));
  });
  if (group.more_reasons) items.push(make("li", {}, `and ${plural(group.more_reasons, "more text")}: producer results`));
  return [make("p", { class: "kind" }, `${group.kind}: ${plural(group.jobs, "job")}`), make("ul", {}, ...items)];
}

function showWaits(waits) {
  const box = byId("chosen-waits");
  box.hidden = waits.length === 0;
  redraw(box, waits, () => [
    make("h3", {}, "Refused by workers, and tried again"),
    make("ul", {}, ...waits.map((wait) =>
      make("li", {}, `${wait.kind}: ${wait.text} `, make("small", {}, `(${plural(wait.jobs, "job")}, ${wait.worker})`)))),
  ]);
}

function showPictures(record, isOther) {
  const list = byId("picture-list");
  if (isOther) list.replaceChildren();
  const isFirst = list.childElementCount === 0;
  keep(list, record.pictures, (picture) => picture.path, (picture) => makePicture(picture, !isFirst), () => {});
  byId("pictures-title").hidden = false;
  byId("no-picture").hidden = record.pictures.length > 0;
  say(byId("no-picture"), record.open ? "No picture yet: they appear here as they are rendered." : "No picture was rendered.");
}

function makePicture(picture, isFresh) {
  const title = picture.samples > 1 ? `row ${number(picture.row)}, sample ${picture.sample + 1}` : `row ${number(picture.row)}`;
  const frame = make("span", { class: "frame" });
  loadPicture(frame, picture, `${title}: ${picture.prompt}`, 1);
  const button = make("button", { type: "button", "aria-haspopup": "dialog", onclick: () => view(picture, title) },
    frame,
    make("span", { class: "caption" }, make("span", {}, make("b", {}, title), ` ${picture.prompt}`)));
  return make("li", { class: isFresh ? "fresh" : null }, button);
}

function loadPicture(frame, picture, alt, attempt) {
  const image = make("img", { alt, width: picture.width, height: picture.height, decoding: "async" });
  image.addEventListener("error", () => missing(frame, picture, alt, attempt));
  image.src = attempt === 1 ? picture.path : `${picture.path}?try=${attempt}`;
  frame.replaceChildren(image);
}

async function missing(frame, picture, alt, attempt) {
  let why = "The picture cannot be loaded.";
  try {
    const reply = await fetch(picture.path, { cache: "no-store" });
    if ((reply.ok || reply.status === 503) && attempt < TRIES) {
      setTimeout(() => loadPicture(frame, picture, alt, attempt + 1), 1000 * attempt);
      return;
    }
    if (!reply.ok) why = (await reply.text()).trim();
  } catch {
    if (attempt < TRIES) {
      setTimeout(() => loadPicture(frame, picture, alt, attempt + 1), 3000 * attempt);
      return;
    }
  }
  frame.replaceChildren(make("span", { class: "missing" }, why));
}

function view(picture, title) {
  byId("viewer-image").src = picture.path;
  byId("viewer-image").alt = `${title}: ${picture.prompt}`;
  say(byId("viewer-title"), title);
  say(byId("viewer-prompt"), picture.prompt || "(an empty prompt)");
  const size = picture.width ? `${picture.width} × ${picture.height}` : null;
  const facts = [
    ["size", size], ["seed", String(picture.seed)], ["picture", picture.uri], ["source", picture.source],
    ["worker", picture.worker], ["finished", picture.finished_at ? ago(picture.finished_at) : null],
    ...picture.warnings.map((warning) => ["warning", warning]),
  ];
  byId("viewer-facts").replaceChildren(
    ...facts.filter(([, value]) => value).flatMap(([name, value]) => [make("dt", {}, name), make("dd", {}, value)]));
  byId("viewer").showModal();
}

// -- workers ---------------------------------------------------------------------------------------------------

function showWorkers(overview) {
  const { workers } = overview;
  keep(byId("worker-list"), workers, (worker) => worker.name, makeWorker, updateWorker);
  byId("no-worker").hidden = overview.workers_total > 0;
  const hidden = overview.workers_total - workers.length;
  byId("more-workers").hidden = hidden <= 0;
  say(byId("more-workers"), `and ${plural(hidden, "more worker")}: producer status --workers`);
}

function makeWorker(worker) {
  return make("li", {},
    make("div", { class: "line" }, make("span", { class: "name" }, worker.name), make("span", { class: "percent" })),
    make("p", { class: "text caution" }), make("p", { class: "text in-flight" }), make("p", { class: "line below about" }),
    make("p", { class: "text error" }),
    make("details", { hidden: true }, make("summary", {}, "job ids"), make("div", {})));
}

function updateWorker(item, worker) {
  const part = (name) => item.querySelector(name);
  say(part(".percent"), worker.paused === null ? `holds ${plural(worker.holds, "job")}` : "takes no jobs");
  part(".percent").classList.toggle("caution", worker.paused !== null);
  say(part(".caution.text"), worker.paused ?? "");
  say(part(".in-flight"), worker.in_flight.map((jobs) => `${jobs.batch}: ${number(jobs.jobs)}`).join(", "));
  const about = [
    worker.engine_set ? `set ${worker.engine_set}` : null,
    worker.started_at ? `started ${ago(worker.started_at)}` : null,
    `heartbeat ${ago(worker.heartbeat_at)}`,
  ];
  say(part(".about"), about.filter(Boolean).join(" · "));
  say(part(".error"), worker.last_error ? `last error: ${worker.last_error}` : "");
  part("details").hidden = worker.jobs.length === 0;
  const more = worker.holds > worker.jobs.length ? ` and ${number(worker.holds - worker.jobs.length)} more` : "";
  say(part("details div"), `${worker.jobs.join(" ")}${more}`);
  for (const text of item.querySelectorAll(".text")) text.hidden = text.textContent === "";
}

// -- begin -----------------------------------------------------------------------------------------------------

window.addEventListener("hashchange", () => {
  poll();
  if (named() !== null) byId("chosen").scrollIntoView({ block: "nearest" });
});
document.addEventListener("visibilitychange", () => { if (!document.hidden) poll(); });
byId("viewer").addEventListener("click", (event) => { if (event.target === byId("viewer")) byId("viewer").close(); });
poll();
