// Frames to the server and answers back, over one WebSocket. Two frames are on their way at most,
// so that the server always works and an answer is never about what is long past.

import { at, trouble } from "./api.js";

const IN_FLIGHT = 2;
const encoder = new TextEncoder();

export class Live {
  /** Calls `heard(document)` for each message and `changed(open)` when the connection is. */
  constructor(heard, changed) {
    this.heard = heard;
    this.changed = changed;
    this.sent = new Map(); // frame -> when it was captured
    this.times = []; // of the last answers: [when, milliseconds since the frame was captured]
    this.number = 0;
    this.connect();
  }

  get isOpen() {
    return this.socket.readyState === WebSocket.OPEN;
  }

  get isBusy() {
    return !this.isOpen || this.sent.size >= IN_FLIGHT;
  }

  connect() {
    const address = new URL("live", document.baseURI);
    address.protocol = "ws:";
    this.socket = new WebSocket(address);
    this.socket.binaryType = "arraybuffer";
    this.socket.onopen = () => this.changed(true);
    this.socket.onmessage = (event) => this.receive(JSON.parse(event.data));
    this.socket.onclose = (event) => {
      this.sent.clear();
      this.changed(false);
      if (event.reason) trouble(`procmem ended the connection: ${event.reason}`);
      setTimeout(() => this.connect(), 1500);
    };
  }

  /** Sends a header and pictures; gives the frame's number. */
  async send(header, ...pictures) {
    if (!this.isOpen) return undefined;
    const frame = this.number++;
    if (header.do === "ask") this.sent.set(frame, header.captured ?? performance.now());
    const { captured, ...rest } = header;
    const parts = pictures.map((picture) => picture.size);
    const text = encoder.encode(JSON.stringify({ ...rest, frame, parts }));
    const length = new DataView(new ArrayBuffer(4));
    length.setUint32(0, text.length, true);
    const message = await new Blob([length.buffer, text, ...pictures]).arrayBuffer();
    if (this.isOpen) this.socket.send(message);
    return frame;
  }

  receive(message) {
    const now = performance.now();
    if (message.kind === "answer" || (message.kind === "error" && "worked_ms" in message)) {
      const captured = this.sent.get(message.frame);
      // Frames are answered in order: earlier ones that are still on the list were dropped.
      for (const frame of [...this.sent.keys()]) {
        if (message.frame === undefined || frame <= message.frame) this.sent.delete(frame);
      }
      if (captured !== undefined) {
        this.times.push([now, now - captured]);
        if (this.times.length > 60) this.times.shift();
        this.showPace(message);
      }
    }
    this.heard(message);
  }

  showPace({ milliseconds, waited_ms }) {
    const recent = this.times.filter(([when]) => when > performance.now() - 5000);
    const sorted = recent.map(([, took]) => took).sort((a, b) => a - b);
    const span = recent.length > 1 ? (recent.at(-1)[0] - recent[0][0]) / 1000 : 0;
    const rate = span > 0 ? (recent.length - 1) / span : 0;
    const middle = sorted[Math.floor(sorted.length / 2)] ?? 0;
    const pace = at("pace");
    pace.textContent = `${rate.toFixed(1)} answers/s · ${middle.toFixed(0)} ms`;
    const steps = Object.entries({ wait: waited_ms, ...milliseconds });
    pace.title = "from camera to answer; of the last: " +
      steps.map(([step, took]) => `${step} ${took.toFixed(1)} ms`).join(", ");
    pace.dataset.rate = rate.toFixed(2);
    pace.dataset.latencies = JSON.stringify(sorted.map((took) => Math.round(took)));
  }
}
