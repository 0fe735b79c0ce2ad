// What the page says, in the reader's language.

import { en } from "./en.js";
import { zh } from "./zh.js";

const LANGUAGES = { en, zh };
let current = "en";

/** "zh" or "en", for a choice ("auto", "en" or "zh") and the browser's languages. */
export function languageFor(choice, preferred = navigator.languages) {
  if (choice in LANGUAGES) return choice;
  const first = preferred.map((tag) => tag.slice(0, 2).toLowerCase()).find((tag) => tag in LANGUAGES);
  return first ?? "en";
}

/** Speak this language from now on. */
export function speak(language) {
  current = language;
  document.documentElement.lang = language === "zh" ? "zh-CN" : "en";
}

export function spoken() {
  return current;
}

/** The words for a key; some take values. */
export function say(key, ...values) {
  const words = LANGUAGES[current][key];
  return typeof words === "function" ? words(...values) : words;
}

/** A number as this language writes it, with so many decimals. */
export function number(value, decimals = 0) {
  return value.toLocaleString(locale(), {
    minimumFractionDigits: decimals,
    maximumFractionDigits: decimals,
  });
}

const locale = () => (current === "zh" ? "zh-CN" : "en");

/** A day as this language writes it. */
export function day(at) {
  return new Date(at).toLocaleDateString(locale(), { dateStyle: "medium" });
}

/** A time of day as this language writes it. */
export function time(at) {
  return new Date(at).toLocaleTimeString(locale(), { hour: "2-digit", minute: "2-digit", hour12: false });
}

/** A number of bytes, such as "12 kB": in thousands, as the command line has them. */
export function size(bytes) {
  const step = Math.min(3, Math.floor(Math.log10(Math.max(1, bytes)) / 3));
  const value = bytes / 1000 ** step;
  return `${number(value, step > 1 && value < 10 ? 1 : 0)} ${["B", "kB", "MB", "GB"][step]}`;
}
