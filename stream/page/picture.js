// One binary message of the WebSocket in, one picture with the atoms of the same frame out.
// Layout (little-endian), as stream/pictures.py packs it:
//   uint32 bytes of JSON | float32 seconds it waited in the overlay | JSON, padded to a multiple of 4
//   | float32 y, x, score, sigma_pm | uint8 class_id, flags | uint8 pixels of the preview

export const CONTAMINATED = 1;
export const EDGE = 2;

export function decodePicture(buffer) {
  const prefix = new DataView(buffer);
  const headerBytes = prefix.getUint32(0, true);
  const header = JSON.parse(new TextDecoder().decode(new Uint8Array(buffer, 8, headerBytes)));
  let offset = 8 + headerBytes;
  const take = (Type, length) => {
    const column = new Type(buffer, offset, length);
    offset += column.byteLength;
    return column;
  };
  const atoms = { count: header.count };
  for (const name of ["y", "x", "score", "sigma_pm"]) atoms[name] = take(Float32Array, header.count);
  for (const name of ["class_id", "flags"]) atoms[name] = take(Uint8Array, header.count);
  const [height, width] = header.preview_shape;
  const image = grey(take(Uint8Array, height * width), height, width);
  return { header, atoms, image, waited_s: prefix.getFloat32(4, true) };
}

function grey(pixels, height, width) {
  const canvas = new OffscreenCanvas(width, height);
  const context = canvas.getContext("2d");
  const image = context.createImageData(width, height);
  const rgba = new Uint32Array(image.data.buffer);
  for (let i = 0; i < pixels.length; i++) rgba[i] = 0xff000000 | (pixels[i] * 0x010101);
  context.putImageData(image, 0, 0);
  return canvas;
}

// The atom nearest to a place in the frame, or -1 where none is within reach (all in frame pixels).
export function nearestAtom(atoms, y, x, reach) {
  let best = -1;
  let least = reach * reach;
  for (let i = 0; i < atoms.count; i++) {
    const distance = (atoms.y[i] - y) ** 2 + (atoms.x[i] - x) ** 2;
    if (distance < least) [best, least] = [i, distance];
  }
  return best;
}

export function describeAtom(picture, i) {
  const { atoms, header } = picture;
  const A = header.sampling_A;
  const flags = [];
  if (atoms.flags[i] & CONTAMINATED) flags.push("contaminated");
  if (atoms.flags[i] & EDGE) flags.push("at the edge");
  return [
    `${className(header, atoms.class_id[i])}   score ${atoms.score[i].toFixed(3)}   σ ${atoms.sigma_pm[i].toFixed(1)} pm`,
    `y ${atoms.y[i].toFixed(2)} px   ${(atoms.y[i] * A).toFixed(3)} Å`,
    `x ${atoms.x[i].toFixed(2)} px   ${(atoms.x[i] * A).toFixed(3)} Å`,
    ...(flags.length ? [flags.join(", ")] : []),
  ].join("\n");
}

export function className(header, id) {
  return header.classes[id] ?? `class ${id}`;
}

// The columns of `atomstream detect`.
export function toCsv(picture) {
  const { atoms, header } = picture;
  const rows = ["frame,time_s,y,x,class,score,sigma_pm,sampling_A"];
  for (let i = 0; i < atoms.count; i++) {
    rows.push([
      header.frame,
      header.timestamp ?? "",
      atoms.y[i].toFixed(3),
      atoms.x[i].toFixed(3),
      quoted(className(header, atoms.class_id[i])),
      atoms.score[i].toFixed(4),
      atoms.sigma_pm[i].toFixed(2),
      header.sampling_A,
    ].join(","));
  }
  return rows.join("\n") + "\n";
}

function quoted(text) {
  return /[",\n\r]/.test(text) ? `"${text.replaceAll('"', '""')}"` : text;
}
