// A frozen frame on which a person paints a little of one thing and a little of the rest.

import { Refusal, at } from "./api.js";
import { encode, freeze } from "./stage.js";

const canvas = at("paint");
const still = document.createElement("canvas"); // the frame without paint
const UNJUDGED = 255;
const TINT = { 1: [86, 180, 233], 0: [230, 120, 40] };
let values = null; // one of 1, 0, 255 per pixel
let last = null;

export function start() {
  freeze(still);
  canvas.width = still.width;
  canvas.height = still.height;
  values = new Uint8Array(still.width * still.height).fill(UNJUDGED);
  canvas.hidden = false;
  draw();
}

export function stop() {
  canvas.hidden = true;
  values = null;
}

/** The middle of the frame is the thing and its edge the rest: for those who cannot paint. */
export function takeMiddle() {
  const { width, height } = canvas;
  for (let y = 0; y < height; y++) {
    for (let x = 0; x < width; x++) {
      const far = Math.hypot((2 * x) / width - 1, (2 * y) / height - 1);
      values[y * width + x] = far < 0.35 ? 1 : far > 0.85 ? 0 : UNJUDGED;
    }
  }
  draw();
}

/** The frame and its mask, encoded. */
export async function result() {
  for (const [value, what] of [[1, "the thing"], [0, "the rest"]]) {
    if (!values.includes(value)) throw new Refusal(`paint a little of ${what} too`);
  }
  const mask = document.createElement("canvas");
  mask.width = canvas.width;
  mask.height = canvas.height;
  const pixels = new ImageData(mask.width, mask.height);
  values.forEach((value, n) => pixels.data.set([value, value, value, 255], 4 * n));
  mask.getContext("2d").putImageData(pixels, 0, 0);
  return [await encode(still), await encode(mask, "image/png")];
}

function place(event) {
  // The canvas shows its picture whole, centered in a box of another shape.
  const box = canvas.getBoundingClientRect();
  const scale = Math.min(box.width / canvas.width, box.height / canvas.height);
  const left = (box.width - canvas.width * scale) / 2, top = (box.height - canvas.height * scale) / 2;
  return [(event.clientX - box.left - left) / scale, (event.clientY - box.top - top) / scale];
}

function stroke(from, to) {
  const value = Number(document.querySelector("input[name=brush]:checked").value);
  const radius = Number(at("size").value) / 2;
  const steps = Math.max(1, Math.ceil(Math.hypot(to[0] - from[0], to[1] - from[1]) / (radius / 2)));
  for (let n = 0; n <= steps; n++) {
    const x = from[0] + ((to[0] - from[0]) * n) / steps, y = from[1] + ((to[1] - from[1]) * n) / steps;
    dab(x, y, radius, value);
  }
  draw();
}

function dab(x, y, radius, value) {
  const { width, height } = canvas;
  for (let row = Math.max(0, Math.ceil(y - radius)); row <= Math.min(height - 1, y + radius); row++) {
    for (let column = Math.max(0, Math.ceil(x - radius)); column <= Math.min(width - 1, x + radius); column++) {
      if (Math.hypot(column - x, row - y) <= radius) values[row * width + column] = value;
    }
  }
}

function draw() {
  const pen = canvas.getContext("2d", { willReadFrequently: true });
  pen.drawImage(still, 0, 0);
  const pixels = pen.getImageData(0, 0, canvas.width, canvas.height);
  values.forEach((value, n) => {
    if (value === UNJUDGED) return;
    TINT[value].forEach((color, channel) => {
      pixels.data[4 * n + channel] = 0.4 * pixels.data[4 * n + channel] + 0.6 * color;
    });
  });
  pen.putImageData(pixels, 0, 0);
}

canvas.addEventListener("pointerdown", (event) => {
  canvas.setPointerCapture(event.pointerId);
  last = place(event);
  stroke(last, last);
});
canvas.addEventListener("pointermove", (event) => {
  if (!last) return;
  const here = place(event);
  stroke(last, here);
  last = here;
});
for (const end of ["pointerup", "pointercancel"]) canvas.addEventListener(end, () => { last = null; });
