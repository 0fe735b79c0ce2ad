// A turn of the reader's: its text, and the field to edit it.

import { say } from "../language/words.js";
import { questionBlocks } from "../text/markdown.js";
import { Branches } from "./branches.js";
import { CopyButton } from "./copy_button.js";
import { html, useLayoutEffect, useRef, useState } from "./html.js";
import { Icon } from "./icon.js";
import { Prose } from "./prose.js";
import { fitHeight, sends } from "./text_field.js";

// What is longer than this is material rather than a question: it is set smaller and folded.
const SHORT = 280;
const FOLDED_LINES = 14;

export function Question({ chat, place, order, editing, setEditing }) {
  const { turn } = place;
  const [unfolded, setUnfolded] = useState(false);
  const long = turn.text.length > SHORT || turn.text.split("\n").length > 4;
  const foldable = turn.text.length > 5 * SHORT || turn.text.split("\n").length > FOLDED_LINES;
  return html`<article class="question" aria-label=${say("question", order)}>
    <span class="order" aria-hidden="true">${order}</span>
    ${editing
      ? html`<${QuestionEditor}
          text=${turn.text}
          onAsk=${(text) => {
            setEditing(null);
            chat.edit(turn, text);
          }}
          onCancel=${() => setEditing(null)}
        />`
      : html`<div class=${`question-text ${long ? "long" : ""} ${foldable && !unfolded ? "folded" : ""}`} dir="auto"><${Prose} text=${turn.text} read=${questionBlocks} /></div>
          ${foldable &&
          html`<button type="button" class="link" aria-expanded=${String(unfolded)} onClick=${() => setUnfolded(!unfolded)}>
            ${say(unfolded ? "showLess" : "showAll")}
          </button>`}
          <div class="turn-foot">
            <${Branches} ...${{ chat, place }} />
            <button type="button" class="small-button" aria-label=${say("edit")} title=${say("edit")} onClick=${() => setEditing(turn.id)}>
              <${Icon} name="edit" />
            </button>
            <${CopyButton} text=${turn.text} label=${say("copyQuestion")} />
          </div>`}
  </article>`;
}

function QuestionEditor({ text, onAsk, onCancel }) {
  const [value, setValue] = useState(text);
  const field = useRef(null);
  useLayoutEffect(() => {
    field.current.focus();
    field.current.setSelectionRange(text.length, text.length);
  }, []);
  useLayoutEffect(() => fitHeight(field.current), [value]);
  const submit = () => value.trim() && onAsk(value.trim());
  const onKey = (event) => {
    if (sends(event)) submit();
    else if (event.key === "Escape" && !event.isComposing) onCancel();
    else return;
    event.preventDefault();
    event.stopPropagation();
  };
  return html`<div class="question-editor">
    <textarea ref=${field} rows="1" aria-label=${say("edit")} value=${value} onInput=${(event) => setValue(event.target.value)} onKeyDown=${onKey}></textarea>
    <div class="editor-foot">
      <p class="quiet">${say("editHint")}</p>
      <button type="button" class="button" onClick=${onCancel}>${say("cancel")}</button>
      <button type="button" class="button primary" disabled=${!value.trim()} onClick=${submit}>${say("ask")}</button>
    </div>
  </div>`;
}
