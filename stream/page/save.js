// What is shown, taken away: the picture as PNG, its atoms as CSV. Both answer with what to tell the user.

import { toCsv } from "./picture.js";
import { View, drawPicture } from "./view.js";

const PNG_EDGE_PX = 1536;
const CAPTION_PX = 40;

export async function savePng(picture, options) {
  const { header } = picture;
  const scale = PNG_EDGE_PX / Math.max(...header.frame_shape);
  const [height, width] = header.frame_shape.map((length) => Math.round(length * scale));
  const canvas = new OffscreenCanvas(width, height + CAPTION_PX);
  const context = canvas.getContext("2d");
  const view = new View();
  view.adapt(header.frame_shape, [height, width]);
  drawPicture(context, view, picture, options);
  drawCaption(context, header, height, width);
  const blob = await canvas.convertToBlob({ type: "image/png" });
  return `Saved ${download(blob, fileName(header, "png"))}`;
}

function drawCaption(context, header, top, width) {
  const taken = header.timestamp ? new Date(header.timestamp * 1000).toISOString() : "";
  const parts = [header.source, `frame ${header.frame}`, `${header.count} atoms`, header.model, taken];
  context.fillStyle = "#0e1216";
  context.fillRect(0, top, width, CAPTION_PX);
  context.fillStyle = "#c3ccd4";
  context.font = "18px system-ui, 'DejaVu Sans', sans-serif";
  context.textAlign = "left";
  context.textBaseline = "middle";
  context.fillText(parts.filter(Boolean).join("   "), 14, top + CAPTION_PX / 2, width - 28);
}

// Browsers give the clipboard only to pages of this machine or under https; elsewhere the table is a download.
export async function copyCsv(picture) {
  const { header } = picture;
  const table = toCsv(picture);
  try {
    await navigator.clipboard.writeText(table);
    return `Copied ${header.count} atoms of frame ${header.frame}`;
  } catch {
    return `Saved ${download(new Blob([table], { type: "text/csv" }), fileName(header, "csv"))}`;
  }
}

function fileName(header, ending) {
  const words = [header.source, header.series, header.frame].filter((word) => word !== null).map(String);
  return `atomstream_${words.join("_").replace(/[^\w.-]+/g, "-").slice(0, 80)}.${ending}`;
}

function download(blob, name) {
  const anchor = document.createElement("a");
  anchor.href = URL.createObjectURL(blob);
  anchor.download = name;
  anchor.click();
  setTimeout(() => URL.revokeObjectURL(anchor.href), 10_000);
  return name;
}
