// The sampling settings of a conversation. Which there are, with ranges, defaults and words, the server says.

/** The settings that the page shows: all that are numbers. `info` is null before the server has answered. */
export function settingsOf(info) {
  return info?.sampling.filter((setting) => ["number", "integer"].includes(setting.kind)) ?? [];
}

/** What a request has of a conversation's settings: those that the server knows. */
export function requestSettings(info, settings) {
  const known = settingsOf(info).filter(({ name }) => Object.hasOwn(settings, name));
  return Object.fromEntries(known.map(({ name }) => [name, settings[name]]));
}

/** The number typed for a setting, or null for nothing or what is out of its range. */
export function readSetting({ kind, low, high, above }, typed) {
  if (String(typed).trim() === "") return null;
  const value = Number(typed);
  const fits = kind === "integer" ? Number.isSafeInteger(value) : Number.isFinite(value);
  return fits && value <= high && (above ? value > low : value >= low) ? value : null;
}
