// Files that go with a question, as text; a PDF by the text of its pages. What has no text is refused.

import { say, size } from "../language/words.js";
import { NoPdfText, isPdf, pdfText } from "../text/pdf.js";

const LARGEST_NAME = 200;
// Bytes of a PDF, most of which are pictures and fonts as a rule; its text may be as long as another file's.
const LARGEST_PDF = 100_000_000;
// Control characters that no text has.
const BINARY = /[\u0000-\u0008\u000e-\u001a\u001c-\u001f]/u;
const ENCODINGS = ["utf-8", "gb18030"];

/** A file that cannot be read; the message is a sentence for the reader. */
export class FileRefused extends Error {}

/** As a turn keeps a file: {name, size, text}. */
export function fileOf(name, text) {
  return { name: name.replace(/[\u0000-\u001f]/gu, " ").slice(0, LARGEST_NAME), size: new TextEncoder().encode(text).length, text };
}

/**
 * Read a File, whose text has at most `largest` bytes. `onPage(page, all)` is told how a PDF comes along. Raises FileRefused;
 * what `signal` says if it is aborted.
 */
export async function readAttachment(file, largest, { signal, onPage }) {
  const head = await bytesOf(file.slice(0, 5), file.name);
  const most = isPdf(head) ? LARGEST_PDF : largest;
  if (file.size > most) throw new FileRefused(say("fileLarge", file.name, size(file.size), size(most)));
  const bytes = await bytesOf(file, file.name);
  const text = isPdf(head) ? await textOfPdf(bytes, file.name, { longest: largest, signal, onPage }) : textOf(bytes);
  if (text === null) throw new FileRefused(say("fileBinary", file.name));
  if (!text.trim()) throw new FileRefused(say("fileEmpty", file.name));
  const read = fileOf(file.name, text);
  if (read.size > largest) throw new FileRefused(say("pdfLong", file.name, size(largest)));
  return read;
}

async function bytesOf(blob, name) {
  try {
    return new Uint8Array(await blob.arrayBuffer());
  } catch {
    throw new FileRefused(say("fileUnreadable", name));
  }
}

const PDF_REFUSED = { locked: "pdfLocked", damaged: "pdfDamaged", scanned: "pdfScanned", long: "pdfLong" };

async function textOfPdf(bytes, name, options) {
  try {
    return await pdfText(bytes, options);
  } catch (error) {
    if (!(error instanceof NoPdfText)) throw error;
    throw new FileRefused(say(PDF_REFUSED[error.reason], name, size(options.longest)));
  }
}

/** The text of bytes in UTF-8, UTF-16 with its mark, or GB 18030; null for what is none. */
function textOf(bytes) {
  const marked = { "255,254": "utf-16le", "254,255": "utf-16be" }[bytes.subarray(0, 2).join()];
  for (const encoding of marked ? [marked] : ENCODINGS) {
    try {
      const text = new TextDecoder(encoding, { fatal: true }).decode(bytes).replaceAll("\r\n", "\n");
      if (!BINARY.test(text)) return text;
    } catch {
      // Not in this one.
    }
  }
  return null;
}
