// The sampling settings of a conversation: numbers, and switches. Which there are, with ranges, defaults and words, the server says.

/** The settings that the page shows. `info` is null before the server has answered. */
export function settingsOf(info) {
  return info?.sampling.filter((setting) => ["number", "integer", "switch"].includes(setting.kind)) ?? [];
}

/** What a request has of a conversation's settings: those that the server knows as what they are. */
export function requestSettings(info, settings) {
  const fits = ({ name, kind }) => typeof settings[name] === (kind === "switch" ? "boolean" : "number");
  const known = settingsOf(info).filter(fits);
  return Object.fromEntries(known.map(({ name }) => [name, settings[name]]));
}

/** The switch for thinking before an answer, if this model can be told: its row, and whether it is on. */
export function thinkingSwitch(info, settings) {
  const row = settingsOf(info).find(({ name }) => name === "enable_thinking");
  return row && { row, on: settings.enable_thinking ?? row.default };
}

/** Does the model think before an answer? One that can has a budget for it, and not every one of those can leave it. */
export function thinks(info, settings) {
  const can = settingsOf(info).some(({ name }) => name === "thinking_budget");
  return can && thinkingSwitch(info, settings)?.on !== false;
}

/** The number typed for a setting, or null for nothing or what is out of its range. */
export function readSetting({ kind, low, high, above }, typed) {
  if (String(typed).trim() === "") return null;
  const value = Number(typed);
  const fits = kind === "integer" ? Number.isSafeInteger(value) : Number.isFinite(value);
  return fits && value <= high && (above ? value > low : value >= low) ? value : null;
}
