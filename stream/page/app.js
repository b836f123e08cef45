// The page's state: what came in, what is shown, whether it is alive, and what the user can do about it.

import { connectButtons, connectKeys, connectPointers } from "./controls.js";
import { Line, Messages, duration, showFrame, showStatus, whole } from "./figures.js";
import { Link } from "./link.js";
import { decodePicture, describeAtom, nearestAtom } from "./picture.js";
import { copyCsv, savePng } from "./save.js";
import { View, drawHighlight, drawPicture, ringRadius, showLegend } from "./view.js";

const TICK_MS = 250;
const STATUS_MS = 1000; // the service sends its figures so often, unless told otherwise
const OLD_STATUSES = 3.5;
const STALE_MS = 2000;
const STALE_INTERVALS = 4; // slow exposures: a picture is stale only after this many frame intervals
const HOVER_REACH_PX = 14;

const byId = (id) => document.getElementById(id);
const canvas = byId("picture");
const view = new View();
const messages = new Messages();
const lines = {
  atoms: new Line("atoms-line", "#5cc8ff", false),
  latency: new Line("latency-line", "#4cc38a", true),
};
const options = { atoms: true, byScore: false, radius_A: 0.5 };
const state = {
  connected: false,
  wasConnected: false,
  paused: false,
  hello: {},
  picture: null, // the one on the canvas
  pictureAt: 0, // performance.now() when the overlay received it
  arrived: null, // decoded, to be drawn with the next repaint
  status: null,
  statusAt: 0,
  statusGap: STATUS_MS,
  pointer: null, // [y, x] on the canvas
};

// In: everything the overlay sends.

const link = new Link({
  onOpen() {
    state.connected = state.wasConnected = true;
    messages.clear(); // the overlay tells the last ones again
    if (!state.paused) link.askPicture();
    tick();
  },
  onLost() {
    state.connected = false;
    tick();
  },
  onText(message) {
    if (message.kind === "hello") takeHello(message);
    else if (message.kind === "status") takeStatus(message);
    else if (message.kind === "event") takeEvent(message);
  },
  onPicture(buffer) {
    if (state.paused) return;
    state.arrived = decodePicture(buffer);
    state.arrived.at = performance.now() - state.arrived.waited_s * 1000;
    requestRepaint();
  },
});

function takeHello(hello) {
  const changed = hello.source !== state.hello.source;
  state.hello = hello;
  const { sources, source } = hello;
  byId("source-choice").hidden = sources.length < 2;
  byId("source-name").hidden = sources.length >= 2;
  byId("source-name").textContent = source ?? "";
  byId("source").replaceChildren(...sources.map((name) => new Option(name, name, false, name === source)));
  if (!changed) return;
  [state.picture, state.arrived, state.status] = [null, null, null];
  for (const line of Object.values(lines)) line.clear();
  messages.clear();
  requestRepaint();
}

function takeStatus(message) {
  const at = performance.now() - message.waited_s * 1000;
  if (state.status) state.statusGap = Math.max(at - state.statusAt, STATUS_MS);
  [state.status, state.statusAt] = [message, at];
  showStatus(message);
  tick();
}

function takeEvent(event) {
  const level = event.event === "fault" ? "fault" : "info";
  const text = event.message || event.event.replaceAll("_", " ");
  messages.add(level, text, new Date(Date.now() - event.waited_s * 1000));
}

// Alive or not: a frozen picture must never look alive.

function condition() {
  const now = performance.now();
  if (!state.connected) {
    const text = state.wasConnected ? "Connection lost" : "Connecting";
    return ["lost", text, "Reconnecting: is atomstream overlay still running?"];
  }
  if (!state.picture) return ["waiting", "Waiting for frames", waitingFor(now)];
  const { header } = state.picture;
  const limit = Math.max(STALE_MS, STALE_INTERVALS * (header.frame_interval_ms ?? 0));
  const silent = now - state.pictureAt;
  if (silent < limit) return ["live", "Live", ""];
  return ["stale", `No frame for ${duration(silent / 1000)}`, waitingFor(now)];
}

function waitingFor(now) {
  if (!state.status) return `Nothing heard from atomstream serve at ${state.hello.endpoint ?? "its address"} yet.`;
  if (statusIsOld(now)) return "atomstream serve has gone silent too.";
  const { fps_in, fps_out } = state.status;
  if (fps_out > 0) return "Frames are processed, but no preview comes: is the preview rate 0?";
  if (fps_in > 0) return "Frames arrive, but none is answered: see the reasons under Dropped.";
  return "atomstream serve is running and receives no frames: is the camera sending?";
}

function statusIsOld(now) {
  return now - state.statusAt > OLD_STATUSES * state.statusGap;
}

function tick() {
  const now = performance.now();
  let [name, text, detail] = condition();
  if (state.paused) {
    detail = state.connected ? "The picture is frozen, the figures go on. Space resumes." : `${text}. ${detail}`;
    [name, text] = ["paused", "PAUSED"];
  }
  document.body.dataset.state = name;
  byId("state").textContent = name === "paused" ? "Paused" : text;
  byId("notice-text").textContent = text;
  byId("notice-detail").textContent = detail;
  document.title = name === "live" ? "Atomstream" : `${text} – Atomstream`;
  byId("panel").classList.toggle("old", !state.connected || statusIsOld(now));
  for (const line of Object.values(lines)) line.draw(now);
  messages.draw();
}

// Out: one repaint for whatever changed.

let repaintAsked = false;

function requestRepaint() {
  if (repaintAsked) return;
  repaintAsked = true;
  requestAnimationFrame(repaint);
}

function repaint() {
  repaintAsked = false;
  const fresh = state.arrived;
  if (fresh) takePicture(fresh);
  const density = window.devicePixelRatio;
  const size = [canvas.clientHeight, canvas.clientWidth];
  [canvas.height, canvas.width] = size.map((length) => Math.round(length * density));
  const context = canvas.getContext("2d");
  context.scale(density, density);
  byId("tooltip").hidden = true;
  if (state.picture) {
    view.adapt(state.picture.header.frame_shape, size);
    drawPicture(context, view, state.picture, options);
    if (options.atoms && state.pointer) showHover(context);
  }
  if (fresh) link.askPicture();
}

function takePicture(picture) {
  const { header } = picture;
  const before = state.picture?.header;
  [state.picture, state.pictureAt, state.arrived] = [picture, picture.at, null];
  lines.atoms.add(picture.at, header.count);
  lines.latency.add(picture.at, header.latency_ms);
  showFrame(header);
  for (const warning of header.warnings) messages.add("warning", warning, new Date());
  const series = header.series === null ? "" : `series ${header.series} · `;
  const [height, width] = header.frame_shape;
  byId("frame-label").textContent =
    `${series}frame ${whole(header.frame)} · ${height} × ${width} px · ${Number(header.sampling_A.toPrecision(4))} Å/px`;
  const counted = !options.byScore && header.classes.length > 1;
  if (counted || String(before?.classes) !== String(header.classes)) {
    showLegend(byId("legend"), picture, options.byScore);
  }
  if (document.body.dataset.state !== "live") tick();
}

function showHover(context) {
  const { picture, pointer } = state;
  const reach = Math.max(ringRadius(view, picture, options), HOVER_REACH_PX) / view.scale;
  const atom = nearestAtom(picture.atoms, ...view.toFrame(...pointer), reach);
  if (atom < 0) return;
  drawHighlight(context, view, picture, atom, options);
  const tooltip = byId("tooltip");
  tooltip.hidden = false;
  tooltip.textContent = describeAtom(picture, atom);
  const [y, x] = view.toScreen(picture.atoms.y[atom], picture.atoms.x[atom]);
  const left = x + 18 + tooltip.offsetWidth > canvas.clientWidth ? x - 18 - tooltip.offsetWidth : x + 18;
  const top = Math.min(Math.max(y - tooltip.offsetHeight / 2, 6), canvas.clientHeight - tooltip.offsetHeight - 6);
  tooltip.style.transform = `translate(${left}px, ${top}px)`;
}

// What the user can do.

const actions = {
  pause() {
    state.paused = !state.paused;
    byId("pause").setAttribute("aria-pressed", state.paused);
    byId("pause").textContent = state.paused ? "Go on" : "Pause";
    state.arrived = null;
    // Going on, the next picture says that it is live again; a tick here would call the frozen one stale for a moment.
    if (state.paused) tick();
    else link.askPicture();
  },
  atoms() {
    options.atoms = !options.atoms;
    byId("atoms").setAttribute("aria-pressed", options.atoms);
  },
  colour() {
    options.byScore = !options.byScore;
    byId("colour").textContent = options.byScore ? "By score" : "By class";
    if (state.picture) showLegend(byId("legend"), state.picture, options.byScore);
  },
  radius(step) {
    if (step) byId("radius").value = options.radius_A + step;
    options.radius_A = Number(byId("radius").value);
  },
  zoom: (factor) => view.zoom(factor, view.size[0] / 2, view.size[1] / 2),
  fit: () => view.fit(),
  async save() {
    if (state.picture) say(await savePng(state.picture, options));
  },
  async copy() {
    if (state.picture) say(await copyCsv(state.picture));
  },
  help: () => byId("shortcuts").showModal(),
};

function act(action) {
  action();
  requestRepaint();
}

function say(text) {
  const toast = byId("toast");
  toast.textContent = text;
  toast.classList.add("shown");
  clearTimeout(say.timer);
  say.timer = setTimeout(() => toast.classList.remove("shown"), 2500);
}

connectKeys(actions, act);
connectButtons(actions, act);
connectPointers(canvas, view, act, (pointer) => {
  state.pointer = pointer;
});
byId("source").addEventListener("change", (event) => link.choose(event.target.value));
new ResizeObserver(requestRepaint).observe(canvas);
setInterval(tick, TICK_MS);
tick();
