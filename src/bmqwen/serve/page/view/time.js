// When a turn was written: the time of today, else the day.

import { day, time } from "../language/words.js";
import { html } from "./html.js";

export function Time({ at }) {
  const date = new Date(at);
  const today = date.toDateString() === new Date().toDateString();
  return html`<time class="time" datetime=${date.toISOString()} title=${`${day(at)} ${time(at)}`}>${today ? time(at) : day(at)}</time>`;
}
