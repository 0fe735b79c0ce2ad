// A dialog over the page; the browser keeps the focus inside and closes it on Escape.

import { html, useEffect, useRef } from "./html.js";

/** `wide` for what is more than a few lines. */
export function Dialog({ title, onClose, wide = false, children }) {
  const dialog = useRef(null);
  useEffect(() => {
    dialog.current.showModal();
  }, []);
  const onClick = (event) => {
    if (event.target === dialog.current) dialog.current.close();
  };
  return html`<dialog ref=${dialog} class=${wide ? "wide" : ""} aria-labelledby="dialog-title" onClose=${onClose} onClick=${onClick}>
    <div class="dialog-body">
      <h2 id="dialog-title">${title}</h2>
      ${children}
    </div>
  </dialog>`;
}
