// From what was typed and dropped to the JSON that is sent.

/** A field whose text is no JSON. */
export class Unreadable extends Error {}

function parsed(name, text) {
  try {
    return JSON.parse(text);
  } catch (error) {
    throw new Unreadable(`${name} is not JSON: ${error.message}`);
  }
}

const isEmpty = (value) => value === undefined || value === "";

const isJson = (kind, value) => kind === "json" || (kind === "text or json" && /^\s*[[{]/.test(value));

/** Fields and their values as an object; empty ones are left out. Files stay files. Throws Unreadable. */
export function collected(fields, values) {
  const filled = fields.filter((field) => !isEmpty(values[field.name]));
  return Object.fromEntries(
    filled.map(({ name, kind }) => [name, isJson(kind, values[name]) ? parsed(name, values[name]) : values[name]]),
  );
}

/** An item of any JSON, from its text. Throws Unreadable. */
export const anyJson = (text) => (text.trim() === "" ? null : parsed("The input", text));

function asData(file) {
  return new Promise((done, failed) => {
    const reader = new FileReader();
    reader.onload = () => done(reader.result);
    reader.onerror = () => failed(reader.error);
    reader.readAsDataURL(file);
  });
}

/** `value` with each File as its data URL, which the service reads wherever it takes bytes. */
export async function withBytes(value) {
  if (value instanceof File) return asData(value);
  if (Array.isArray(value)) return Promise.all(value.map(withBytes));
  if (value === null || typeof value !== "object") return value;
  const entries = await Promise.all(Object.entries(value).map(async ([name, one]) => [name, await withBytes(one)]));
  return Object.fromEntries(entries);
}
