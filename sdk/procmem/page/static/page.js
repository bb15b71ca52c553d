// Ties the page together: a camera or photos are asked, taught and marked; see the other files.

import { at, attempt, send, trouble } from "./api.js";
import { showAnswer, showNothing } from "./answers.js";
import { Live } from "./live.js";
import * as memory from "./memory.js";
import * as paint from "./paint.js";
import * as stage from "./stage.js";

const LESSON_PAUSE = 180; // milliseconds between the frames of a held button
let marking = false; // something was marked and is looked for
let painting = false;
let version = null; // of the memory, as the last answer saw it
let teaching = null; // the label, while the button is held
let lessons = 0;

const live = new Live(hear, (open) => {
  if (!open) at("status").textContent = "connecting…";
  else attempt(memory.refresh);
  marking = false;
  showTools();
});

// ---- asking

async function askFrames() {
  if (stage.isLive() && stage.hasPicture() && !painting && !live.isBusy && !document.hidden) {
    await askOne();
  }
  // The next frame of the video, or soon if it stands still.
  const video = at("video");
  if (stage.isLive() && video.requestVideoFrameCallback) {
    const again = setTimeout(askFrames, 250);
    video.requestVideoFrameCallback(() => {
      clearTimeout(again);
      askFrames();
    });
  } else {
    setTimeout(askFrames, 100);
  }
}

async function askOne() {
  const captured = performance.now();
  const picture = await stage.frame();
  if (picture) await live.send({ do: "ask", captured, match: at("match").checked, find: marking }, picture);
}

function hear(message) {
  if (message.kind === "answer") {
    if (stage.hasPicture()) showAnswer(message);
    if (version !== message.version) {
      version = message.version;
      attempt(memory.refresh);
    }
  } else if (message.kind === "taught") {
    lessons += 1;
    at("lesson").textContent = `taught ${message.label} ${lessons} time${lessons === 1 ? "" : "s"}`;
  } else if (message.kind === "marked") {
    marking = message.marked;
    showTools();
    if (!stage.isLive() && stage.hasPicture()) askOne();
  } else if (message.kind === "error") {
    trouble(message.error);
  }
}

function showTools() {
  const ready = stage.hasPicture() || stage.isLive();
  at("teach").disabled = !ready || painting;
  at("freeze").disabled = !ready;
  at("similar").disabled = !ready || painting;
  at("mark-tools").hidden = !painting;
  at("mark-start").hidden = painting;
  at("unmark").hidden = !marking;
  at("camera").textContent = stage.isLive() ? "Stop camera" : "Start camera";
}

// ---- camera and photos

at("camera").addEventListener("click", () => attempt(async () => {
  endPainting();
  if (stage.isLive()) {
    stage.stopCamera();
    showNothing();
  } else {
    await stage.startCamera();
  }
  showTools();
}));

async function openPhotos(files) {
  const photos = [...files].filter((file) => file.type.startsWith("image/"));
  if (!photos.length) {
    trouble("these are no pictures");
    return;
  }
  endPainting();
  const label = at("name").value.trim();
  await attempt(async () => {
    if (photos.length > 1) await teachPhotos(photos, label);
    await stage.showPhoto(photos[0]);
    await askOne();
  });
  showTools();
}

async function teachPhotos(photos, label) {
  if (!label) {
    trouble("say first what is in the pictures; then several are taught at once");
    at("name").focus();
    return;
  }
  const bad = [];
  for (const [n, photo] of photos.entries()) {
    at("lesson").textContent = `teaching ${label}: ${n + 1} of ${photos.length}`;
    try {
      await send(`api/teach?label=${encodeURIComponent(label)}&keep=${Number(at("keep").checked)}`, photo);
    } catch (error) {
      bad.push(`${photo.name}: ${error.message}`);
    }
  }
  at("lesson").textContent = `taught ${label} ${photos.length - bad.length} times`;
  if (bad.length) trouble(`not taught: ${bad.slice(0, 3).join("; ")}`);
  await memory.refresh();
}

at("files").addEventListener("change", (event) => {
  openPhotos(event.target.files).then(() => { event.target.value = ""; });
});
const box = at("stage");
box.addEventListener("dragover", (event) => {
  event.preventDefault();
  box.classList.add("over");
});
box.addEventListener("dragleave", () => box.classList.remove("over"));
box.addEventListener("drop", (event) => {
  event.preventDefault();
  box.classList.remove("over");
  openPhotos(event.dataTransfer.files);
});
at("match").addEventListener("change", () => { if (!stage.isLive() && stage.hasPicture()) askOne(); });

// ---- teaching: as long as the button is held, by pointer or key

async function teachFrames() {
  while (teaching !== null) {
    const picture = stage.hasPicture() ? await stage.frame() : null;
    if (picture && teaching !== null) {
      await live.send({ do: "teach", label: teaching, keep: at("keep").checked }, picture);
    }
    if (!stage.isLive()) break; // a photo is taught once
    await new Promise((resolve) => setTimeout(resolve, LESSON_PAUSE));
  }
  await attempt(memory.refresh);
  if (!stage.isLive() && stage.hasPicture()) askOne();
}

function hold() {
  const label = at("name").value.trim();
  if (teaching !== null) return;
  if (!label) {
    trouble("say first what is in the picture");
    at("name").focus();
    return;
  }
  trouble(null);
  teaching = label;
  lessons = 0;
  at("teach").classList.add("held");
  teachFrames();
}

function release() {
  teaching = null;
  at("teach").classList.remove("held");
}

const button = at("teach");
button.addEventListener("pointerdown", (event) => {
  button.setPointerCapture(event.pointerId);
  hold();
});
for (const end of ["pointerup", "pointercancel", "blur"]) button.addEventListener(end, release);
button.addEventListener("keydown", (event) => {
  if ((event.key === " " || event.key === "Enter") && !event.repeat) hold();
});
button.addEventListener("keyup", release);
button.addEventListener("contextmenu", (event) => event.preventDefault()); // a long touch

// ---- marking

function endPainting() {
  if (painting) paint.stop();
  painting = false;
}

at("freeze").addEventListener("click", () => {
  if (!stage.hasPicture()) return;
  painting = true;
  stage.showRegion(null);
  stage.showMatches(null);
  paint.start();
  showTools();
});
at("middle").addEventListener("click", paint.takeMiddle);
at("cancel").addEventListener("click", () => {
  endPainting();
  showTools();
});
at("find").addEventListener("click", () => attempt(async () => {
  const [picture, mask] = await paint.result();
  await live.send({ do: "mark" }, picture, mask);
  endPainting();
  showTools();
}));
at("unmark").addEventListener("click", () => attempt(() => live.send({ do: "mark" })));

// ---- forgetting what looks like this

at("similar").addEventListener("click", () => attempt(async () => {
  await memory.forgetSimilar(await stage.frame(), at("least").value);
  if (!stage.isLive() && stage.hasPicture()) await askOne();
}));

showTools();
askFrames();
