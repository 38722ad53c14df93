// Numbers as people read them, and elements made of plain text.

const BYTE_UNITS = ["B", "kB", "MB", "GB", "TB", "PB"];

/** A number of bytes with a decimal unit. */
export function bytes(count) {
  let unit = 0;
  let value = count;
  while (value >= 999.5 && unit < BYTE_UNITS.length - 1) {
    value /= 1000;
    unit += 1;
  }
  const digits = unit === 0 || value >= 99.95 ? 0 : 1;
  return `${value.toFixed(digits)} ${BYTE_UNITS[unit]}`;
}

/** A value with about four significant digits. */
export function number(value) {
  if (value === 0) return "0";
  const size = Math.abs(value);
  if (size >= 1e6 || size < 1e-3) return value.toExponential(2);
  return String(Number(value.toPrecision(4)));
}

/** A whole number in groups of three digits. */
export function count(value) {
  return value.toLocaleString("en-US");
}

/** A length in metres with the prefix that suits it. */
export function length(metres) {
  for (const [unit, size] of [["m", 1], ["mm", 1e-3], ["µm", 1e-6], ["nm", 1e-9]]) {
    if (Math.abs(metres) >= size) return `${number(metres / size)} ${unit}`;
  }
  return `${number(metres / 1e-12)} pm`;
}

/** What is wrong with the text of a number field, and which value stays. */
export function wholeNumberFault(input, name, kept) {
  const found = input.validity.badInput ? "is no number" : input.value === "" ? "was left empty" : `cannot be ${input.value}`;
  return `${name} ${found}; it has to be a whole number from ${input.min} to ${input.max} and stays ${kept}.`;
}

/** An element with text and children; text is never read as markup. */
export function element(tag, properties = {}, ...children) {
  const made = document.createElement(tag);
  for (const [name, value] of Object.entries(properties)) {
    if (name in made) made[name] = value;
    else made.setAttribute(name, value);
  }
  made.append(...children);
  return made;
}

/** The element with an id. */
export function byId(id) {
  return document.getElementById(id);
}
