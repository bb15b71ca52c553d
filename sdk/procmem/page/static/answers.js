// An answer on the screen: the label, how sure, and the remembered pictures that voted.

import { at, make, percent, pictureOf } from "./api.js";
import { drawPlaces, showMatches, showRegion } from "./stage.js";

let shown = ""; // ids of the voters on the screen; pictures are not loaded anew for the same ones

export function showAnswer(answer) {
  const label = at("label");
  const words = answer.label ?? (answer.items ? "Nothing has a label" : "Nothing is remembered");
  // Written only when it changes: a screen reader says what is written.
  if (label.textContent !== words) label.textContent = words;
  label.classList.toggle("novel", answer.is_novel);
  at("reason").textContent = reasonOf(answer);
  at("confidence").hidden = answer.label === null;
  at("confidence").value = answer.confidence;
  showVoters(answer);
  showMatches(answer.matches);
  showRegion(answer.region);
}

export function showNothing() {
  shown = "";
  at("label").textContent = "Nothing asked yet";
  at("label").classList.remove("novel");
  at("reason").textContent = "";
  at("confidence").hidden = true;
  at("voters").replaceChildren();
}

function reasonOf(answer) {
  if (answer.label === null) return answer.items ? "" : "teach it something";
  const words = [`${percent(answer.confidence)} of the vote`];
  if (answer.probability !== null) words.push(`right in ${percent(answer.probability)} of such cases`);
  if (answer.is_novel) words.push("unlike anything remembered");
  return words.join(" · ");
}

function showVoters(answer) {
  const voters = at("voters");
  const key = answer.neighbors.map((one) => one.id + one.thumbnail).join() + answer.matches?.id;
  if (key !== shown) {
    shown = key;
    voters.replaceChildren(...answer.neighbors.map((one) => {
      const box = make("div", { className: "picture-box" }, pictureOf(one));
      const item = make("li", {}, box, make("b", { text: one.label ?? "no label" }), make("span"));
      if (one.id === answer.matches?.id) {
        item.className = "matched";
        box.append(make("canvas", { width: 320, height: 240, ariaHidden: "true" }));
      }
      return item;
    }));
  }
  answer.neighbors.forEach((one, n) => {
    voters.children[n].lastChild.textContent =
      `${percent(one.share)} of the vote, ${one.similarity.toFixed(2)} alike`;
  });
  const canvas = voters.querySelector("canvas");
  if (canvas) drawThere(canvas, answer.matches.there);
}

/** The picture is cut to 4:3 around its middle, so the places move with it. */
function drawThere(canvas, places) {
  const picture = canvas.parentElement.querySelector("img");
  const ratio = picture?.naturalWidth ? picture.naturalWidth / picture.naturalHeight : 4 / 3;
  const x = Math.max(1, ratio / (4 / 3)), y = Math.max(1, 4 / 3 / ratio);
  drawPlaces(canvas, places.map(([u, v]) => [(u - 0.5) * x + 0.5, (v - 0.5) * y + 0.5]), canvas.width / 34);
}
