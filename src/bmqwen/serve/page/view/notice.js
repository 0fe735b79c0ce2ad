// A remark that goes by itself, with an undo where there is something to undo.

import { say } from "../language/words.js";
import { html, useEffect, useState } from "./html.js";
import { Icon } from "./icon.js";

const SHOWN_MS = 8_000;

export function Notice({ chat }) {
  const [notice, setNotice] = useState(null);
  useEffect(() => {
    const onNotice = (event) => setNotice(event.detail);
    chat.addEventListener("notice", onNotice);
    return () => chat.removeEventListener("notice", onNotice);
  }, [chat]);
  useEffect(() => {
    if (!notice) return undefined;
    const timer = setTimeout(() => setNotice(null), SHOWN_MS);
    return () => clearTimeout(timer);
  }, [notice]);

  const undo = () => {
    notice.undo();
    setNotice(null);
  };
  return html`<div class="notice-place" role="status">
    ${notice &&
    html`<div class="notice">
      <p>${notice.text}</p>
      ${notice.undo && html`<button type="button" class="link" onClick=${undo}>${say("undo")}</button>`}
      <button type="button" class="icon-button" aria-label=${say("dismiss")} title=${say("dismiss")} onClick=${() => setNotice(null)}>
        <${Icon} name="close" />
      </button>
    </div>`}
  </div>`;
}
