// The text of a PDF, page by page, by pdf.js. It is fetched with the first PDF, and works in a thread of its own.

import { pageAddress } from "../server/client.js";

/** Why there is no text: `reason` is "locked", "damaged", "scanned" or "long". */
export class NoPdfText extends Error {
  constructor(reason) {
    super(reason);
    this.reason = reason;
  }
}

/** Do these bytes begin a PDF? */
export function isPdf(bytes) {
  return new TextDecoder("latin1").decode(bytes.subarray(0, 5)) === "%PDF-";
}

/**
 * The text of all pages, with an empty line between two. `onPage(page, all)` is told of each page; a `signal` that is aborted
 * ends the work. Raises NoPdfText: of a text with more than `longest` UTF-16 units as soon as that is known.
 */
export async function pdfText(bytes, { longest, signal, onPage }) {
  const { getDocument, PDFWorker } = await import("../vendor/pdf/pdf.js");
  const inVendor = (path) => new URL(`vendor/pdf/${path}`, pageAddress).href;
  // A thread of ours can be ended in the middle of a page that has no end.
  const thread = new Worker(inVendor("pdf.worker.js"), { type: "module" });
  const worker = PDFWorker.create({ port: thread, verbosity: 0 });
  const aborted = new Promise((_, reject) => signal.addEventListener("abort", () => reject(signal.reason)));
  const settings = { cMapUrl: inVendor("cmaps/"), isEvalSupported: false, disableFontFace: true, verbosity: 0 };
  try {
    return await Promise.race([aborted, textOf(getDocument({ data: bytes, worker, ...settings }), longest, onPage)]);
  } catch (error) {
    if (signal.aborted || error instanceof NoPdfText) throw error;
    throw new NoPdfText(error?.name === "PasswordException" ? "locked" : "damaged");
  } finally {
    worker.destroy();
    thread.terminate();
  }
}

async function textOf(task, longest, onPage) {
  const pages = await task.promise;
  const texts = [];
  let length = 0;
  for (let number = 1; number <= pages.numPages; number += 1) {
    onPage(number, pages.numPages);
    const page = await pages.getPage(number);
    const { items } = await page.getTextContent();
    const lines = items.map(({ str = "", hasEOL }) => str + (hasEOL ? "\n" : ""));
    const text = lines.join("").trim();
    page.cleanup();
    length += text.length;
    if (length > longest) throw new NoPdfText("long");
    if (text) texts.push(text);
  }
  if (!texts.length) throw new NoPdfText("scanned");
  return `${texts.join("\n\n")}\n`;
}
