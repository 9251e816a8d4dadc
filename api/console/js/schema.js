// What a model takes, read from its input schema: which fields a person fills in, and how.

/** `schema` with its local references followed. */
function resolved(schema, defs) {
  const name = schema?.$ref?.replace("#/$defs/", "");
  return name === undefined ? (schema ?? {}) : resolved(defs[name], defs);
}

function kindOf(schema, defs) {
  const one = resolved(schema, defs);
  const ways = (one.anyOf ?? one.oneOf ?? [one]).map((way) => resolved(way, defs));
  if (ways.some((way) => way.contentEncoding === "base64")) return "file";
  if (ways.some((way) => way.type === "array" && resolved(way.items, defs).contentEncoding === "base64")) return "files";
  if (one.enum) return "choice";
  const types = new Set(ways.map((way) => way.type).filter((type) => type !== "null"));
  if (types.has("string")) return types.has("array") || types.has("object") ? "text or json" : "text";
  if (types.size === 1 && (types.has("number") || types.has("integer"))) return "number";
  if (types.size === 1 && types.has("boolean")) return "switch";
  return "json";
}

/** The fields of an object: `[{ name, kind, required, description, choices }]`; null where it is none. */
export function fieldsOf(schema, defs = schema?.$defs ?? {}) {
  const one = resolved(schema, defs);
  if (one.type !== "object" || !one.properties) return null;
  return Object.entries(one.properties).map(([name, field]) => ({
    name,
    kind: kindOf(field, defs),
    required: (one.required ?? []).includes(name),
    description: resolved(field, defs).description ?? "",
    choices: resolved(field, defs).enum ?? [],
  }));
}

/** The form of one item, and whether a list of them is taken: `{ fields, many }`; fields null: any JSON. */
export function inputOf(schema) {
  const defs = schema?.$defs ?? {};
  const forms = (schema?.anyOf ?? [schema]).map((form) => resolved(form, defs));
  return { fields: fieldsOf(forms[0], defs), many: forms.some((form) => form.type === "array") };
}

const ACCEPT = { image: "image/*", images: "image/*", audio: "audio/*", video: "video/*" };

export const acceptOf = (name) => ACCEPT[name] ?? "";
