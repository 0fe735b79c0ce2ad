// A button that opens a short list of actions. Arrows move, Escape closes, so does a click elsewhere.

import { html, useEffect, useLayoutEffect, useRef, useState } from "./html.js";
import { Icon } from "./icon.js";

/** `items`: [{label, act, danger?}]. */
export function Menu({ label, items }) {
  const [open, setOpen] = useState(false);
  const button = useRef(null);
  const list = useRef(null);

  const close = (focus) => {
    setOpen(false);
    if (focus) button.current?.focus();
  };

  useLayoutEffect(() => {
    if (!open) return;
    place(list.current, button.current.getBoundingClientRect());
    list.current.querySelector("button").focus();
  }, [open]);

  useEffect(() => {
    if (!open) return undefined;
    const elsewhere = (event) => {
      if (!list.current?.contains(event.target) && !button.current?.contains(event.target)) close(false);
    };
    addEventListener("pointerdown", elsewhere);
    addEventListener("resize", elsewhere);
    return () => {
      removeEventListener("pointerdown", elsewhere);
      removeEventListener("resize", elsewhere);
    };
  }, [open]);

  const onKey = (event) => {
    const buttons = [...list.current.querySelectorAll("button")];
    const step = { ArrowDown: 1, ArrowUp: -1 }[event.key];
    if (step) {
      const at = buttons.indexOf(document.activeElement);
      buttons[(at + step + buttons.length) % buttons.length].focus();
    } else if (event.key === "Escape") close(true);
    else if (event.key === "Tab") close(false);
    else return;
    if (event.key !== "Tab") event.preventDefault();
    event.stopPropagation();
  };

  return html`<span class="menu">
    <button
      ref=${button}
      type="button"
      class="icon-button"
      aria-label=${label}
      title=${label}
      aria-haspopup="menu"
      aria-expanded=${String(open)}
      onClick=${() => setOpen(!open)}
    >
      <${Icon} name="more" />
    </button>
    ${open &&
    html`<div ref=${list} class="menu-list" role="menu" onKeyDown=${onKey}>
      ${items.map(
        (item) => html`<button
          type="button"
          role="menuitem"
          class=${item.danger ? "danger" : ""}
          onClick=${() => {
            close(true);
            item.act();
          }}
        >
          ${item.label}
        </button>`,
      )}
    </div>`}
  </span>`;
}

/** Below its button, or above where there is no room; never outside the window. */
function place(list, anchor) {
  const { offsetWidth: width, offsetHeight: height } = list;
  const below = anchor.bottom + 4;
  list.style.top = `${below + height > innerHeight ? Math.max(8, anchor.top - height - 4) : below}px`;
  list.style.left = `${Math.max(8, Math.min(anchor.right - width, innerWidth - width - 8))}px`;
}
