// A turn of the reader's: its files and text, and the field to edit it.

import { say } from "../language/words.js";
import { questionBlocks } from "../text/markdown.js";
import { Attachments } from "./attachments.js";
import { Branches } from "./branches.js";
import { CopyButton } from "./copy_button.js";
import { html, useState } from "./html.js";
import { Icon } from "./icon.js";
import { Prose } from "./prose.js";
import { TextEditor } from "./text_field.js";
import { Time } from "./time.js";

// What is longer than this is material rather than a question: it is set smaller and folded.
const SHORT = 280;
const FOLDED_LINES = 14;

export function Question({ chat, place, order, editing, setEditing }) {
  const { turn } = place;
  const [unfolded, setUnfolded] = useState(false);
  const long = turn.text.length > SHORT || turn.text.split("\n").length > 4;
  const foldable = turn.text.length > 5 * SHORT || turn.text.split("\n").length > FOLDED_LINES;
  return html`<article id=${`turn-${turn.id}`} class="question" aria-label=${say("question", order)}>
    <span class="order" aria-hidden="true">${order}</span>
    ${editing
      ? html`<${TextEditor}
          text=${turn.text}
          hint=${say("editHint")}
          action=${say("ask")}
          onDone=${(text) => {
            setEditing(null);
            if (text !== null) chat.edit(turn, text);
          }}
        />`
      : html`<div class=${`question-text ${long ? "long" : ""} ${foldable && !unfolded ? "folded" : ""}`} dir="auto">
            <${Prose} text=${turn.text} read=${questionBlocks} />
          </div>
          <${Attachments} files=${turn.files} />
          ${foldable &&
          html`<button type="button" class="link" aria-expanded=${String(unfolded)} onClick=${() => setUnfolded(!unfolded)}>
            ${say(unfolded ? "showLess" : "showAll")}
          </button>`}
          <div class="turn-foot">
            <${Time} at=${turn.created} />
            <${Branches} ...${{ chat, place }} />
            <button type="button" class="small-button" aria-label=${say("edit")} title=${say("edit")} onClick=${() => setEditing(turn.id)}>
              <${Icon} name="edit" />
            </button>
            <${CopyButton} text=${turn.text} label=${say("copyQuestion")} />
          </div>`}
  </article>`;
}
