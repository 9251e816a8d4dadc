// The same call in the languages of those who will make it. Keys are never written out: they come from the environment.

const inShell = (text) => `'${text.replaceAll("'", String.raw`'\''`)}'`;

/** `value` as source text; a File is whatever `ofFile` makes of it. */
function source(value, words, ofFile, indent = "") {
  const deeper = `${indent}    `;
  if (value instanceof File) return ofFile(value);
  if (value === null || value === undefined) return words.null;
  if (typeof value === "boolean") return words[value];
  if (Array.isArray(value) && value.length > 0)
    return `[\n${value.map((one) => deeper + source(one, words, ofFile, deeper)).join(",\n")},\n${indent}]`;
  if (typeof value === "object" && Object.keys(value).length > 0) {
    const lines = Object.entries(value).map(
      ([name, one]) => `${deeper}${JSON.stringify(name)}: ${source(one, words, ofFile, deeper)}`,
    );
    return `{\n${lines.join(",\n")},\n${indent}}`;
  }
  return JSON.stringify(value);
}

function files(value) {
  if (value instanceof File) return [value];
  return value !== null && typeof value === "object" ? Object.values(value).flatMap(files) : [];
}

function curl(url, request, secret) {
  const auth = secret ? ` \\\n  -H "Authorization: Bearer $ML_API_KEY"` : "";
  const found = files(request.data);
  const fields = request.data !== null && typeof request.data === "object" ? Object.values(request.data) : [];
  if (found.length === 1 && fields.length === 1 && fields[0] === found[0] && !request.parameters) {
    const query = new URLSearchParams({ model_type: request.model_type });
    if (request.version) query.set("version", request.version);
    const [file] = found;
    const kind = file.type || "application/octet-stream";
    return `curl ${inShell(`${url}?${query}`)}${auth} \\\n  -H ${inShell(`Content-Type: ${kind}`)} --data-binary ${inShell(`@${file.name}`)}`;
  }
  const kept = [];
  const body = JSON.stringify(request, (_, value) => (value instanceof File ? `\u0001${kept.push(value) - 1}\u0001` : value));
  const json = "-H 'Content-Type: application/json'";
  if (kept.length === 0) return `curl ${inShell(url)}${auth} \\\n  ${json} -d ${inShell(body)}`;
  const whole = inShell(body).replace(
    /\\u0001(\d+)\\u0001/g,
    (_, number) => `'"$(base64 < ${inShell(kept[number].name)} | tr -d '\\n')"'`,
  );
  return `printf '%s' ${whole} |\n  curl ${inShell(url)}${auth} \\\n  ${json} -d @-`;
}

function python(url, request, secret) {
  const words = { null: "None", true: "True", false: "False" };
  const ofFile = (file) => `base64.b64encode(open(${JSON.stringify(file.name)}, "rb").read()).decode()`;
  const imports = [...(files(request).length ? ["base64"] : []), ...(secret ? ["os"] : [])].map((name) => `import ${name}\n`);
  const auth = secret ? `\n    headers={"Authorization": f"Bearer {os.environ['ML_API_KEY']}"},` : "";
  return `${imports.join("")}${imports.length ? "\n" : ""}import httpx

answer = httpx.post(
    ${JSON.stringify(url)},
    json=${source(request, words, ofFile, "    ")},${auth}
    timeout=60,
)
answer.raise_for_status()
print(answer.json()["output"])`;
}

function javascript(url, request, secret) {
  const words = { null: "null", true: "true", false: "false" };
  const ofFile = (file) => `(await readFile(${JSON.stringify(file.name)})).toString("base64")`;
  const imports = files(request).length ? 'import { readFile } from "node:fs/promises";\n\n' : "";
  const auth = secret ? "\n        Authorization: `Bearer ${process.env.ML_API_KEY}`," : "";
  return `${imports}const answer = await fetch(${JSON.stringify(url)}, {
    method: "POST",
    headers: {
        "Content-Type": "application/json",${auth}
    },
    body: JSON.stringify(${source(request, words, ofFile, "    ")}),
});
if (!answer.ok) throw new Error(await answer.text());
console.log((await answer.json()).output);`;
}

export const LANGUAGES = ["curl", "Python", "JavaScript"];

/** `request`: the body of POST /inference, with Files where bytes are to be. `secret`: keys are on. */
export function snippet(language, url, request, secret) {
  return { curl, Python: python, JavaScript: javascript }[language](url, request, secret);
}
