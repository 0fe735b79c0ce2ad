// Files dropped anywhere go with the next message; no drop leaves the page.

import { say } from "../language/words.js";
import { html, useEffect, useState } from "./html.js";
import { Icon } from "./icon.js";

const hasFiles = (event) => event.dataTransfer?.types.includes("Files");
const isField = (event) => Boolean(event.target.closest?.("input, textarea"));

export function DropPlace({ onFiles }) {
  const [over, setOver] = useState(false);
  useEffect(() => {
    const onDrag = (event) => {
      // A link or a text that is dropped on nothing must not replace the page either.
      if (!hasFiles(event) && isField(event)) return;
      event.preventDefault();
      event.dataTransfer.dropEffect = hasFiles(event) ? "copy" : "none";
      setOver(hasFiles(event));
    };
    const onLeave = (event) => {
      if (!event.relatedTarget) setOver(false);
    };
    const onDrop = (event) => {
      if (hasFiles(event) || !isField(event)) event.preventDefault();
      setOver(false);
      if (hasFiles(event)) onFiles([...event.dataTransfer.files]);
    };
    const all = { dragenter: onDrag, dragover: onDrag, dragleave: onLeave, drop: onDrop };
    for (const [name, act] of Object.entries(all)) addEventListener(name, act);
    return () => {
      for (const [name, act] of Object.entries(all)) removeEventListener(name, act);
    };
  });
  return over ? html`<div class="drop-place"><${Icon} name="file" /><p>${say("dropHere")}</p></div>` : null;
}
