// The sampling settings of a conversation: their names in the API, ranges and steps.

export const FIELDS = [
  { name: "temperature", min: 0, max: 2, step: 0.05, slider: true },
  { name: "top_p", min: 0.01, max: 1, step: 0.01, slider: true },
  { name: "top_k", min: 0, max: 1000, step: 1 },
  { name: "min_p", min: 0, max: 1, step: 0.01 },
  { name: "repetition_penalty", min: 0.1, max: 2, step: 0.01 },
  { name: "presence_penalty", min: -2, max: 2, step: 0.1 },
  { name: "frequency_penalty", min: -2, max: 2, step: 0.1 },
  { name: "max_tokens", min: 1, max: 1048576, step: 1 },
  { name: "seed", min: 0, max: 4294967295, step: 1 },
];

/** The number typed for a field, or null for nothing or what is out of its range. */
export function readSetting(field, typed) {
  if (String(typed).trim() === "") return null;
  const value = Number(typed);
  const whole = field.step !== 1 || Number.isInteger(value);
  return Number.isFinite(value) && whole && value >= field.min && value <= field.max ? value : null;
}
