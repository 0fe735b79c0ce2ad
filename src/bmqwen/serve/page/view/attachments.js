// The files of a question, each with its size; one that is chosen shows its text.

import { number, say, size } from "../language/words.js";
import { questionBlocks } from "../text/markdown.js";
import { contentOf } from "../conversation/tree.js";
import { Dialog } from "./dialog.js";
import { html, useState } from "./html.js";
import { Icon } from "./icon.js";
import { Prose } from "./prose.js";

/** `onRemove(index)` where files may be taken away again; `tokens`: of all of them, if known. */
export function Attachments({ files = [], tokens = null, onRemove }) {
  const [shown, setShown] = useState(null);
  if (!files.length) return null;
  return html`<ul class="attachments" aria-label=${say("files")}>
    ${files.map(
      (file, index) => html`<li key=${index}>
        <button type="button" class="attachment" title=${file.name} onClick=${() => setShown(file)}>
          <${Icon} name="file" /><span class="attachment-name">${file.name}</span><span class="quiet">${size(file.size)}</span>
        </button>
        ${onRemove &&
        html`<button type="button" class="small-button" aria-label=${say("removeFile", file.name)} title=${say("removeFile", file.name)} onClick=${() => onRemove(index)}>
          <${Icon} name="close" />
        </button>`}
      </li>`,
    )}
    ${tokens > 0 && html`<li class="quiet attachment-tokens">${say("tokens", number(tokens))}</li>`}
    ${shown &&
    html`<${Dialog} wide title=${shown.name} onClose=${() => setShown(null)}>
      <div class="prose"><${Prose} text=${contentOf({ text: "", files: [shown] }).replace(/^.*\n/u, "")} read=${questionBlocks} /></div>
      <form method="dialog" class="dialog-foot"><button class="button">${say("close")}</button></form>
    <//>`}
  </ul>`;
}
