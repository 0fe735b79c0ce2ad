// What the fields for messages share: their height, which key sends, and the editor of a turn.

import { say } from "../language/words.js";
import { html, useLayoutEffect, useRef, useState } from "./html.js";

/** Does this key press send? Not while an input method composes (keyCode 229 is Safari's sign of it), and not on touch screens. */
export function sends(event) {
  const composing = event.isComposing || event.keyCode === 229;
  const touch = matchMedia("(hover: none) and (pointer: coarse)").matches;
  return event.key === "Enter" && !event.shiftKey && !composing && !(touch && !event.ctrlKey && !event.metaKey);
}

/** As high as its text; styles limit it. */
export function fitHeight(field) {
  field.style.height = "auto";
  field.style.height = `${field.scrollHeight}px`;
}

/** Another text for a turn. `onDone(text)`, with null if it is given up. */
export function TextEditor({ text, hint, action, onDone }) {
  const [value, setValue] = useState(text);
  const field = useRef(null);
  useLayoutEffect(() => {
    field.current.focus();
    field.current.setSelectionRange(text.length, text.length);
  }, []);
  useLayoutEffect(() => fitHeight(field.current), [value]);
  const submit = () => value.trim() && onDone(value.trim());
  const onKey = (event) => {
    if (sends(event)) submit();
    else if (event.key === "Escape" && !event.isComposing) onDone(null);
    else return;
    event.preventDefault();
    event.stopPropagation();
  };
  return html`<div class="text-editor">
    <textarea ref=${field} rows="1" dir="auto" aria-label=${say("edit")} value=${value} onInput=${(event) => setValue(event.target.value)} onKeyDown=${onKey}></textarea>
    <div class="editor-foot">
      <p class="quiet">${hint}</p>
      <button type="button" class="button" onClick=${() => onDone(null)}>${say("cancel")}</button>
      <button type="button" class="button primary" disabled=${!value.trim()} onClick=${submit}>${action}</button>
    </div>
  </div>`;
}
