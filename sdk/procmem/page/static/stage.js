// The picture that is asked: a camera or one photo, and what is drawn over it.

import { Refusal, at, trouble } from "./api.js";

const MOST = 480; // longer side of a frame that is sent, pixels; the model sees 224
const video = at("video"), photo = at("photo"), lines = at("lines"), region = at("region");
const grab = document.createElement("canvas");
let camera = null;
let source = null; // what is shown: the video, the photo, or nothing

export const isLive = () => source === video;
export const hasPicture = () => source === photo || (source === video && video.videoWidth > 0);

/** Width and height of what is shown. */
export function size() {
  return source === video ? [video.videoWidth, video.videoHeight] : [photo.width, photo.height];
}

export async function startCamera() {
  if (!navigator.mediaDevices) throw new Refusal("this browser gives no camera here; open photos");
  try {
    camera = await navigator.mediaDevices.getUserMedia({
      video: { width: { ideal: 640 }, height: { ideal: 480 }, facingMode: "environment" },
      audio: false,
    });
  } catch (error) {
    throw new Refusal(`no camera (${error.name}): allow it for this page, or open photos`);
  }
  camera.getVideoTracks()[0].addEventListener("ended", () => {
    trouble("the camera has stopped; start it again");
    stopCamera();
  });
  video.srcObject = camera;
  show(video);
  await video.play();
}

export function stopCamera() {
  for (const track of camera?.getTracks() ?? []) track.stop();
  camera = null;
  video.srcObject = null;
  if (source === video) show(null);
}

/** Shows a photo in place of the camera. */
export async function showPhoto(file) {
  let bitmap;
  try {
    bitmap = await createImageBitmap(file);
  } catch {
    throw new Refusal(`${file.name} is no picture that this browser can show`);
  }
  stopCamera();
  const scale = Math.min(1, 1600 / Math.max(bitmap.width, bitmap.height));
  photo.width = Math.round(bitmap.width * scale);
  photo.height = Math.round(bitmap.height * scale);
  photo.getContext("2d").drawImage(bitmap, 0, 0, photo.width, photo.height);
  bitmap.close();
  show(photo);
}

/** Draws what is shown now, small enough to send, into a canvas of its own. */
export function freeze(canvas = grab) {
  const [width, height] = size();
  const scale = Math.min(1, MOST / Math.max(width, height));
  canvas.width = Math.round(width * scale);
  canvas.height = Math.round(height * scale);
  canvas.getContext("2d").drawImage(source, 0, 0, canvas.width, canvas.height);
  return canvas;
}

/** What is shown now as a JPEG. */
export const frame = () => encode(freeze());

export const encode = (canvas, type = "image/jpeg") =>
  new Promise((resolve) => canvas.toBlob(resolve, type, 0.9));

export function showRegion(address) {
  region.hidden = !address;
  if (address) region.src = address;
}

/** Marks places of the picture, in the order and colors of the neighbor's. */
export function showMatches(matches) {
  const [width, height] = hasPicture() ? size() : [1, 1];
  lines.width = width;
  lines.height = height;
  drawPlaces(lines, matches?.here ?? []);
}

/** Numbered dots at shares of width and height. */
export function drawPlaces(canvas, places, size = canvas.width / 60) {
  const pen = canvas.getContext("2d");
  pen.clearRect(0, 0, canvas.width, canvas.height);
  const radius = Math.max(5, size);
  pen.font = `600 ${Math.round(radius * 1.4)}px sans-serif`;
  pen.textAlign = "center";
  pen.textBaseline = "middle";
  places.forEach(([x, y], n) => {
    pen.beginPath();
    pen.arc(x * canvas.width, y * canvas.height, radius, 0, 2 * Math.PI);
    pen.fillStyle = `hsl(${(n * 47) % 360} 85% 62%)`;
    pen.fill();
    pen.lineWidth = 1.5;
    pen.strokeStyle = "#111";
    pen.stroke();
    pen.fillStyle = "#111";
    pen.fillText(String(n + 1), x * canvas.width, y * canvas.height + 0.5);
  });
}

function show(what) {
  source = what;
  video.hidden = what !== video;
  photo.hidden = what !== photo;
  at("hint").hidden = what !== null;
  showRegion(null);
  showMatches(null);
}
