// Where the frame lies on the canvas (zoom, pan, hover) and how it is drawn there.
// Frame coordinates are (y, x) with pixel centres at integers, so a frame spans -0.5 to size - 0.5.

import { CONTAMINATED, className } from "./picture.js";

const CLASS_COLOURS = ["#5cc8ff", "#ffb347", "#4cd6a0", "#ff6fd0", "#fff07a", "#ff7b6b", "#9fa8ff", "#d0d0d0"];
const SCORE_STOPS = [[255, 83, 73], [255, 159, 64], [250, 229, 96], [118, 217, 130], [64, 200, 255]];
const SCORE_STEPS = 24;
const LEAST_RADIUS_PX = 1.5;

export function classColour(id) {
  return CLASS_COLOURS[id % CLASS_COLOURS.length];
}

export function scoreColour(score) {
  const place = Math.min(Math.max(score, 0), 1) * (SCORE_STOPS.length - 1);
  const left = Math.min(Math.floor(place), SCORE_STOPS.length - 2);
  const mixed = SCORE_STOPS[left].map((value, i) => value + (SCORE_STOPS[left + 1][i] - value) * (place - left));
  return `rgb(${mixed.map(Math.round).join(" ")})`;
}

// Which part of the frame is in view: `scale` canvas pixels a frame pixel, `top` and `left` in frame pixels.
export class View {
  constructor() {
    this.fitted = true;
    this.scale = 1;
    this.top = this.left = 0;
    this.frame = [1, 1];
    this.size = [1, 1];
  }

  // Called for every picture and every change of the window: a fitted view follows, a zoomed one stays.
  adapt(frame, size) {
    if (frame[0] !== this.frame[0] || frame[1] !== this.frame[1]) this.fitted = true;
    [this.frame, this.size] = [frame, size];
    if (this.fitted) this.fit();
    else this.clamp();
  }

  fit() {
    this.fitted = true;
    this.scale = Math.min(this.size[0] / this.frame[0], this.size[1] / this.frame[1]);
    [this.top, this.left] = [0, 1].map((axis) => (this.frame[axis] - this.size[axis] / this.scale) / 2);
  }

  zoom(factor, screenY, screenX) {
    const whole = Math.min(this.size[0] / this.frame[0], this.size[1] / this.frame[1]);
    const scale = Math.min(Math.max(this.scale * factor, whole / 2), 80);
    this.top += screenY / this.scale - screenY / scale;
    this.left += screenX / this.scale - screenX / scale;
    this.scale = scale;
    this.fitted = false;
    this.clamp();
  }

  pan(byY, byX) {
    this.top -= byY / this.scale;
    this.left -= byX / this.scale;
    this.fitted = false;
    this.clamp();
  }

  // The middle of the canvas never leaves the frame.
  clamp() {
    const held = (start, axis) => {
      const half = this.size[axis] / this.scale / 2;
      return Math.min(Math.max(start, -half), this.frame[axis] - half);
    };
    [this.top, this.left] = [held(this.top, 0), held(this.left, 1)];
  }

  toScreen(y, x) {
    return [(y + 0.5 - this.top) * this.scale, (x + 0.5 - this.left) * this.scale];
  }

  toFrame(screenY, screenX) {
    return [screenY / this.scale + this.top - 0.5, screenX / this.scale + this.left - 0.5];
  }
}

// Draws frame, rings and scale bar; the context's unit is one canvas pixel of the view.
export function drawPicture(context, view, picture, options) {
  const { header, image } = picture;
  const [height, width] = view.frame;
  context.fillStyle = "#07090b";
  context.fillRect(0, 0, view.size[1], view.size[0]);
  // Sharp pixels when magnified; when shrunk, smoothing keeps noise from turning into moire.
  context.imageSmoothingEnabled = view.scale < image.width / width;
  context.drawImage(image, -view.left * view.scale, -view.top * view.scale, width * view.scale, height * view.scale);
  if (options.atoms) drawRings(context, view, picture, options);
  drawScaleBar(context, view, header.sampling_A);
}

export function ringRadius(view, picture, options) {
  return Math.max((options.radius_A / picture.header.sampling_A) * view.scale, LEAST_RADIUS_PX);
}

function drawRings(context, view, picture, options) {
  const { atoms } = picture;
  const radius = ringRadius(view, picture, options);
  const groups = new Map(); // one path a colour: thousands of single strokes would take longer than a frame
  for (let i = 0; i < atoms.count; i++) {
    const [y, x] = view.toScreen(atoms.y[i], atoms.x[i]);
    if (y < -radius || x < -radius || y > view.size[0] + radius || x > view.size[1] + radius) continue;
    const dim = (atoms.flags[i] & CONTAMINATED) !== 0;
    const step = options.byScore ? Math.round(atoms.score[i] * SCORE_STEPS) : atoms.class_id[i];
    const key = step * 2 + dim;
    if (!groups.has(key)) groups.set(key, { step, dim, path: new Path2D() });
    const { path } = groups.get(key);
    path.moveTo(x + radius, y);
    path.arc(x, y, radius, 0, 2 * Math.PI);
  }
  context.lineWidth = Math.min(Math.max(radius / 4, 1), 2.5);
  for (const { step, dim, path } of groups.values()) {
    const colour = options.byScore ? scoreColour(step / SCORE_STEPS) : classColour(step);
    context.strokeStyle = context.fillStyle = colour;
    if (!dim) {
      context.globalAlpha = 0.16;
      context.fill(path);
    }
    context.globalAlpha = dim ? 0.4 : 0.95;
    context.stroke(path);
  }
  context.globalAlpha = 1;
}

export function drawHighlight(context, view, picture, i, options) {
  const [y, x] = view.toScreen(picture.atoms.y[i], picture.atoms.x[i]);
  context.strokeStyle = "#ffffff";
  context.lineWidth = 2;
  context.beginPath();
  context.arc(x, y, ringRadius(view, picture, options) + 3, 0, 2 * Math.PI);
  context.stroke();
}

function drawScaleBar(context, view, sampling_A) {
  const length_A = roundLength((view.size[1] / view.scale) * sampling_A * 0.2);
  const length = (length_A / sampling_A) * view.scale;
  const text = length_A >= 10 ? `${length_A / 10} nm` : `${length_A} Å`;
  const [top, start] = view.toScreen(view.frame[0] - 0.5, -0.5);
  const left = Math.max(start, 0) + 20; // inside the frame, and in view
  const bottom = Math.min(top, view.size[0]) - 20;
  context.fillStyle = "rgb(7 9 11 / 0.65)";
  context.fillRect(left - 10, bottom - 34, length + 20, 44);
  context.fillStyle = "#ffffff";
  context.fillRect(left, bottom - 4, length, 4);
  context.font = "600 15px system-ui, 'DejaVu Sans', sans-serif";
  context.textAlign = "center";
  context.textBaseline = "alphabetic";
  context.fillText(text, left + length / 2, bottom - 12);
}

// The largest of 1, 2, 5 times a power of ten that is not longer.
function roundLength(length) {
  const power = 10 ** Math.floor(Math.log10(length));
  const lead = [5, 2, 1].find((value) => value * power <= length);
  return Number((lead * power).toPrecision(1));
}

// What the colours mean, for the picture shown: names of classes with how many it has of each, or the ramp of scores.
export function showLegend(element, { header, atoms }, byScore) {
  element.replaceChildren();
  element.classList.toggle("several", !byScore && header.classes.length > 1);
  if (byScore) {
    const ramp = document.createElement("canvas");
    [ramp.width, ramp.height] = [84, 1];
    const context = ramp.getContext("2d");
    for (let i = 0; i < ramp.width; i++) {
      context.fillStyle = scoreColour(i / (ramp.width - 1));
      context.fillRect(i, 0, 1, 1);
    }
    element.append("score 0", ramp, "1");
    return;
  }
  const counts = new Array(header.classes.length).fill(0);
  for (const id of atoms.class_id) counts[id] += 1;
  for (let id = 0; id < header.classes.length; id++) {
    const [dot, count] = [document.createElement("i"), document.createElement("b")];
    dot.style.borderColor = classColour(id);
    element.append(dot, className(header, id));
    if (header.classes.length === 1) return; // the figures beside it say how many
    count.textContent = counts[id];
    element.append(count);
  }
}
