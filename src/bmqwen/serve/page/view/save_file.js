// Hands a text to the browser as a download.

/** A file name that every system takes. */
export function fileName(title, suffix) {
  const safe = title.replace(/[^\p{L}\p{N}]+/gu, "-").replace(/^-+|-+$/gu, "");
  return `bmqwen-${safe.slice(0, 40) || "conversation"}${suffix}`;
}

export function saveFile(name, text) {
  const type = name.endsWith(".md") ? "text/markdown" : "application/json";
  const address = URL.createObjectURL(new Blob([text], { type }));
  const link = document.createElement("a");
  link.href = address;
  link.download = name;
  link.click();
  // The download has read it by then.
  setTimeout(() => URL.revokeObjectURL(address), 10_000);
}
