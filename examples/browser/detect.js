// A detector in the browser: an .onnx file from export.py, run by onnxruntime-web on one thread of WebAssembly.
import * as ort from "./node_modules/onnxruntime-web/dist/ort.wasm.min.mjs";

ort.env.wasm.numThreads = 1; // more need the headers COOP and COEP

// Class names out of the file's metadata, which onnxruntime-web does not show: ModelProto field 14 holds pairs of
// key (field 1) and value (field 2); the value of "names" is the text of a Python dict, {0: 'cat', 1: 'dog'}.
export function readNames(bytes) {
  for (const [field, entry] of fields(bytes)) {
    if (field !== 14) continue;
    const pair = Object.fromEntries([...fields(entry)].map(([f, text]) => [f, new TextDecoder().decode(text)]));
    if (pair[1] !== "names") continue;
    return [...pair[2].matchAll(/\d+: (?:'((?:[^'\\]|\\.)*)'|"((?:[^"\\]|\\.)*)")/g)].map((m) => m[1] ?? m[2]);
  }
  return [];
}

// The length-delimited fields of a protobuf message as [number, bytes].
function* fields(bytes) {
  let at = 0;
  const varint = () => {
    let value = 0;
    for (let scale = 1; ; scale *= 128) {
      const byte = bytes[at++];
      value += (byte & 127) * scale;
      if (byte < 128) return value;
    }
  };
  while (at < bytes.length) {
    const tag = varint();
    const kind = tag % 8;
    if (kind === 0) varint();
    else if (kind === 1) at += 8;
    else if (kind === 5) at += 4;
    else {
      const size = varint();
      yield [Math.floor(tag / 8), bytes.subarray(at, at + size)];
      at += size;
    }
  }
}

// Fit an image into width x height, grey around it; pixels as RGB planes 0..1.
function letterbox(picture, width, height) {
  const scale = Math.min(width / picture.width, height / picture.height);
  const w = Math.max(Math.round(picture.width * scale), 1);
  const h = Math.max(Math.round(picture.height * scale), 1);
  const left = Math.floor((width - w) / 2);
  const top = Math.floor((height - h) / 2);
  const context = new OffscreenCanvas(width, height).getContext("2d", { willReadFrequently: true });
  context.fillStyle = "rgb(114 114 114)";
  context.fillRect(0, 0, width, height);
  context.drawImage(picture, left, top, w, h);
  const rgba = context.getImageData(0, 0, width, height).data;
  const area = width * height;
  const planes = new Float32Array(3 * area);
  for (let i = 0; i < area; i++) {
    for (let c = 0; c < 3; c++) planes[c * area + i] = rgba[4 * i + c] / 255;
  }
  return { planes, scale, left, top };
}

function overlap(a, b) {
  const w = Math.min(a.x2, b.x2) - Math.max(a.x1, b.x1);
  const h = Math.min(a.y2, b.y2) - Math.max(a.y1, b.y1);
  if (w <= 0 || h <= 0) return 0;
  const area = (box) => (box.x2 - box.x1) * (box.y2 - box.y1);
  return (w * h) / (area(a) + area(b) - w * h);
}

// Rows [cx, cy, w, h, objectness, scores] to the boxes that stay, best first.
function suppress(data, width, confThres, iouThres) {
  const boxes = [];
  for (let at = 0; at < data.length; at += width) {
    let cls = 0;
    for (let c = 1; c < width - 5; c++) if (data[at + 5 + c] > data[at + 5 + cls]) cls = c;
    const conf = data[at + 4] * data[at + 5 + cls];
    if (conf <= confThres) continue;
    const [cx, cy, w, h] = data.subarray(at, at + 4);
    boxes.push({ x1: cx - w / 2, y1: cy - h / 2, x2: cx + w / 2, y2: cy + h / 2, conf, cls });
  }
  boxes.sort((a, b) => b.conf - a.conf);
  const kept = [];
  for (const box of boxes) {
    if (!kept.some((better) => better.cls === box.cls && overlap(better, box) > iouThres)) kept.push(box);
  }
  return kept;
}

export class Detector {
  // size: side of the input where the file leaves it open.
  static async load(bytes, size = 640) {
    const detector = new Detector();
    detector.names = readNames(bytes);
    detector.session = await ort.InferenceSession.create(bytes, { executionProviders: ["wasm"] });
    if (detector.session.outputNames.length > 1) throw new Error("exported with --nms: export the file without it");
    const [batch, , height, width] = detector.session.inputMetadata[0].shape;
    if (typeof batch === "number" && batch > 1) throw new Error("export the file with --batch-size 1 or --dynamic");
    detector.height = typeof height === "number" && height > 0 ? height : size;
    detector.width = typeof width === "number" && width > 0 ? width : size;
    return detector;
  }

  // Objects in an ImageBitmap, in its pixels: {found: [{x1, y1, x2, y2, conf, cls}], ms}.
  async detect(picture, confThres = 0.25, iouThres = 0.45) {
    const { planes, scale, left, top } = letterbox(picture, this.width, this.height);
    const input = new ort.Tensor("float32", planes, [1, 3, this.height, this.width]);
    const start = performance.now();
    const outputs = await this.session.run({ [this.session.inputNames[0]]: input });
    const ms = performance.now() - start;
    const rows = outputs[this.session.outputNames[0]];
    const found = suppress(rows.data, rows.dims[2], confThres, iouThres);
    for (const box of found) {
      box.x1 = Math.min(Math.max((box.x1 - left) / scale, 0), picture.width);
      box.x2 = Math.min(Math.max((box.x2 - left) / scale, 0), picture.width);
      box.y1 = Math.min(Math.max((box.y1 - top) / scale, 0), picture.height);
      box.y2 = Math.min(Math.max((box.y2 - top) / scale, 0), picture.height);
    }
    return { found, ms };
  }
}

// Draw an image and its boxes on a canvas.
export function draw(canvas, picture, found, names) {
  canvas.width = picture.width;
  canvas.height = picture.height;
  const context = canvas.getContext("2d");
  context.drawImage(picture, 0, 0);
  const unit = Math.max(picture.width, picture.height) / 640;
  context.font = `${13 * unit}px sans-serif`;
  context.textBaseline = "top";
  context.lineWidth = 2 * unit;
  for (const box of [...found].reverse()) {
    const color = `hsl(${(box.cls * 137) % 360} 80% 35%)`;
    const text = `${names[box.cls] ?? box.cls} ${box.conf.toFixed(2)}`;
    context.strokeStyle = color;
    context.strokeRect(box.x1, box.y1, box.x2 - box.x1, box.y2 - box.y1);
    const width = context.measureText(text).width + 6 * unit;
    const x = Math.max(Math.min(box.x1, picture.width - width), 0);
    const y = Math.max(box.y1 - 17 * unit, 0);
    context.fillStyle = color;
    context.fillRect(x, y, width, 17 * unit);
    context.fillStyle = "white";
    context.fillText(text, x + 3 * unit, y + 2 * unit);
  }
}
