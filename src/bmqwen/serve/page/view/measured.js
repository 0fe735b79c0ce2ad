// What an answer took: time to the first token, tokens/s, tokens; and the same as a line drawn to scale.

import { number, say } from "../language/words.js";
import { html } from "./html.js";

const WIDTH = 96;

export function Measured({ turn: { usage, timings, model } }) {
  if (!usage) return null;
  const cached = timings?.cached_tokens ?? usage.prompt_tokens_details?.cached_tokens ?? 0;
  const parts = [
    timings?.first_token_s != null && say("firstToken", number(timings.first_token_s, 2)),
    timings?.tokens_per_s > 0 && say("speed", number(timings.tokens_per_s, 1)),
    say("prompt", number(usage.prompt_tokens), cached && number(cached)),
    say("out", number(usage.completion_tokens)),
    timings?.queue_s >= 0.1 && say("queued", number(timings.queue_s, 1)),
  ].filter(Boolean);
  return html`<span class="measured" title=${model}>
    ${timings?.tokens_per_s > 0 && html`<${TimeLine} usage=${usage} timings=${timings} />`}
    ${parts.map((part, index) => html`<span key=${index}>${part}</span>`)}
  </span>`;
}

/** Waiting in the queue, reading the prompt, writing: three strokes in proportion. */
function TimeLine({ usage, timings }) {
  const queue = timings.queue_s ?? 0;
  const reading = timings.first_token_s ?? 0;
  const writing = Math.max(0, usage.completion_tokens - 1) / timings.tokens_per_s;
  const scale = WIDTH / (queue + reading + writing || 1);
  const ends = [queue, queue + reading, queue + reading + writing].map((time) => time * scale);
  const stroke = (name, from, to) => html`<line class=${name} x1=${from} x2=${to} y1="3" y2="3" />`;
  return html`<svg class="time-line" viewBox=${`0 0 ${WIDTH} 6`} width=${WIDTH} height="6" role="img" aria-label=${say("trace")}>
    ${stroke("queue", 0, ends[0])}${stroke("reading", ends[0], ends[1])}${stroke("writing", ends[1], ends[2])}
  </svg>`;
}
