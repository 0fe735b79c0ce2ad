// What the two fields for messages share: their height, and which key sends.

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
