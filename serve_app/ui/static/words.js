// Numbers, times and sizes as people read them. Used by the views. Pure.

const UNITS = ["B", "kB", "MB", "GB", "TB"];

/** As many digits as somebody reads: 12,345 or 0.1235. */
export function number(value, digits = 4) {
  if (typeof value !== "number" || !Number.isFinite(value)) return "–";
  if (Number.isInteger(value) || Math.abs(value) >= 1000) {
    return Math.abs(value) < 1e15 ? Math.round(value).toLocaleString("en") : value.toExponential(2);
  }
  const size = Math.abs(value);
  if (size && size < 1e-3) return value.toExponential(Math.max(digits - 3, 1));
  return String(Number(value.toPrecision(digits)));
}

/** 1.2 M, 45 k: for axes and counts of tokens. */
export function short(value) {
  if (typeof value !== "number" || !Number.isFinite(value)) return "–";
  for (const [size, unit] of [[1e12, " T"], [1e9, " G"], [1e6, " M"], [1e4, " k"]]) {
    if (Math.abs(value) >= size) {
      const scale = unit === " k" ? 1e3 : size;
      return `${Number((value / scale).toPrecision(3))}${unit}`;
    }
  }
  return number(value, 3);
}

/** 3.4 MB. */
export function size(bytes) {
  const power = Math.min(Math.floor(Math.log10(Math.max(bytes, 1)) / 3), UNITS.length - 1);
  return `${Number((bytes / 1000 ** power).toPrecision(3))} ${UNITS[power]}`;
}

/** 45 s, 12 min, 3.5 h. */
export function duration(seconds) {
  if (seconds < 120) return `${Math.round(seconds)} s`;
  if (seconds < 7200) return `${Math.round(seconds / 60)} min`;
  return seconds < 172_800 ? `${(seconds / 3600).toFixed(1)} h` : `${Math.round(seconds / 86_400)} days`;
}

/** "5 min ago", of a moment in seconds since 1970. */
export function ago(moment, now = Date.now() / 1000) {
  const seconds = now - moment;
  return seconds < 5 ? "now" : `${duration(seconds)} ago`;
}

/** The time of day, or the date of what is older. */
export function clock(moment) {
  const date = new Date(moment * 1000);
  const isToday = date.toDateString() === new Date().toDateString();
  return isToday ? date.toLocaleTimeString("en-GB") : date.toLocaleString("sv-SE").slice(0, 16);
}

/** {a: {b: 1}} as [["a.b", 1]]; lists stay whole. */
export function flat(value, prefix = "") {
  return Object.entries(value).flatMap(([key, inner]) =>
    inner && typeof inner === "object" && !Array.isArray(inner) && Object.keys(inner).length
      ? flat(inner, `${prefix}${key}.`)
      : [[prefix + key, inner]]);
}

/** A value of a config in one line. */
export function plain(value) {
  return typeof value === "string" ? value : JSON.stringify(value);
}
