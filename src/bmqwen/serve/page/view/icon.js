// Line icons on a grid of 20.

import { html } from "./html.js";

const PATHS = {
  sidebar: "M4 4.5h12a1 1 0 0 1 1 1v9a1 1 0 0 1-1 1H4a1 1 0 0 1-1-1v-9a1 1 0 0 1 1-1ZM8 4.5v11",
  new: "M10 4.5v11M4.5 10h11",
  search: "M9 14.5a5.5 5.5 0 1 0 0-11 5.5 5.5 0 0 0 0 11ZM13 13l4 4",
  more: "M5 10h.01M10 10h.01M15 10h.01",
  sliders: "M3.5 6.5h7M14.5 6.5h2M3.5 13.5h2M9.5 13.5h7M12.5 8.5a2 2 0 1 0 0-4 2 2 0 0 0 0 4ZM7.5 15.5a2 2 0 1 0 0-4 2 2 0 0 0 0 4Z",
  send: "M10 16V4.5M5 9.5l5-5 5 5",
  copy: "M7.5 7.5h8v8h-8zM5 12.5h-.5v-8h8V5",
  edit: "M4 16l.8-3.2 8.4-8.4 2.4 2.4-8.4 8.4zM11.5 6.1l2.4 2.4",
  again: "M15.5 8A6 6 0 1 0 16 11M15.8 4v4h-4",
  left: "M12 5l-5 5 5 5",
  right: "M8 5l5 5-5 5",
  down: "M10 4.5V16M5 11l5 5 5-5",
  clip: "M14.5 9.5l-5 5a3 3 0 0 1-4.3-4.3l6-6a2 2 0 0 1 2.9 2.9l-5.8 5.8a1 1 0 0 1-1.5-1.4l5-5",
  file: "M5.5 3.5h6l3.5 3.5v9.5h-9.5zM11 3.5v4h4",
  thought: "M8 16.5h4M10 3.5a4.8 4.8 0 0 0-2.7 8.8v1.7h5.4v-1.7A4.8 4.8 0 0 0 10 3.5Z",
  close: "M5 5l10 10M15 5L5 15",
  warning: "M10 7.5v4M10 14h.01M10 3.5l7.5 13h-15z",
};

export function Icon({ name }) {
  return html`<svg class=${`icon icon-${name}`} viewBox="0 0 20 20" aria-hidden="true"><path d=${PATHS[name]} /></svg>`;
}

/** The name of the program with its mark: a chip with a Q in it. */
export function Brand() {
  return html`<span class="brand">
    <svg viewBox="0 0 32 32" aria-hidden="true">
      <path d="M11 2.5v4M21 2.5v4M11 25.5v4M21 25.5v4M2.5 11h4M2.5 21h4M25.5 11h4M25.5 21h4" />
      <rect x="6.5" y="6.5" width="19" height="19" rx="4" />
      <circle cx="16" cy="16" r="4.4" />
      <path d="m18.6 18.6 2.8 2.8" />
    </svg>
    bmqwen
  </span>`;
}
