/** What a JSON schema says of a place in a document: the little of the standard that the one of models.json uses. */

export type Schema = Record<string, unknown>;

export interface Field {
  name: string;
  description: string;
  /** As `integer` or `"a" | "b"`. */
  type: string;
  /** The value it has by itself; undefined: none. */
  byItself: unknown;
  required: boolean;
}

export interface Choice {
  value: unknown;
  description: string;
}

export type Path = readonly (string | number)[];

/** The fields that an object at a path may have. `value`: the document, as far as it can be read. */
export function fieldsAt(root: Schema, path: Path, value: unknown): Field[] {
  const fields = new Map<string, Field>();
  for (const schema of schemasAt(root, path, value)) {
    const required = Array.isArray(schema.required) ? schema.required : [];
    for (const [name, field] of Object.entries(properties(schema))) {
      if (fields.has(name) || name === '$schema') continue;
      fields.set(name, {
        name,
        description: descriptionOf(root, field),
        type: typeOf(root, field),
        byItself: field.default,
        required: required.includes(name),
      });
    }
  }
  return [...fields.values()];
}

/** The values that a place may have, where they can be listed. */
export function choicesAt(root: Schema, path: Path, value: unknown): Choice[] {
  const choices = new Map<string, Choice>();
  const add = (value: unknown, description: string): void => {
    choices.set(JSON.stringify(value), { value, description });
  };
  for (const schema of schemasAt(root, path, value)) {
    const description = descriptionOf(root, schema);
    if ('const' in schema) add(schema.const, description);
    if (Array.isArray(schema.enum)) for (const one of schema.enum) add(one, description);
    if (schema.type === 'boolean') for (const one of [true, false]) add(one, description);
    if (schema.type === 'null') add(null, description);
  }
  return [...choices.values()];
}

/** What is said of a field; null where nothing is known of it. */
export function fieldAt(root: Schema, path: Path, value: unknown): Field | null {
  const name = path.at(-1);
  return fieldsAt(root, path.slice(0, -1), value).find((field) => field.name === name) ?? null;
}

/** All that may describe a place: alternatives, each without references. */
export function schemasAt(root: Schema, path: Path, value: unknown): Schema[] {
  let schemas = alternatives(root, root, value);
  let here = value;
  for (const step of path) {
    here = isObject(here) || Array.isArray(here) ? (here as Record<string | number, unknown>)[step] : undefined;
    schemas = schemas.flatMap((schema) => below(schema, step).flatMap((next) => alternatives(root, next, here)));
  }
  return schemas;
}

function below(schema: Schema, step: string | number): Schema[] {
  if (typeof step === 'number') return isObject(schema.items) ? [schema.items] : [];
  const named = properties(schema)[step];
  if (named) return [named];
  const patterns = isObject(schema.patternProperties) ? Object.entries(schema.patternProperties) : [];
  const matching = patterns.filter(([pattern]) => new RegExp(pattern, 'u').test(step)).map(([, next]) => next);
  if (matching.length) return matching.filter(isObject);
  return isObject(schema.additionalProperties) ? [schema.additionalProperties] : [];
}

function alternatives(root: Schema, schema: Schema, value: unknown, depth = 0): Schema[] {
  if (depth > 20) return []; // a schema that refers to itself
  const deeper = (next: unknown): Schema[] => (isObject(next) ? alternatives(root, next, value, depth + 1) : []);
  const found: Schema[] = [schema];
  if (typeof schema.$ref === 'string') found.push(...deeper(referred(root, schema.$ref)));
  for (const word of ['anyOf', 'oneOf', 'allOf']) {
    const options = schema[word];
    if (Array.isArray(options)) found.push(...options.flatMap(deeper));
  }
  if (isObject(schema.if)) found.push(...deeper(holds(schema.if, value) ? schema.then : schema.else));
  return found;
}

/** Whether a value meets a condition: constants of its fields, and which it must have. */
function holds(condition: Schema, value: unknown): boolean {
  if (!isObject(value)) return !Array.isArray(condition.required);
  const required = Array.isArray(condition.required) ? condition.required : [];
  return (
    required.every((name) => String(name) in value) &&
    Object.entries(properties(condition)).every(
      ([name, field]) => !(name in value) || !('const' in field) || field.const === value[name],
    )
  );
}

function referred(root: Schema, reference: string): unknown {
  return reference
    .split('/')
    .slice(1)
    .reduce<unknown>(
      (here, part) => (isObject(here) ? here[part.replace(/~1/g, '/').replace(/~0/g, '~')] : null),
      root,
    );
}

function properties(schema: Schema): Record<string, Schema> {
  return isObject(schema.properties) ? (schema.properties as Record<string, Schema>) : {};
}

function descriptionOf(root: Schema, schema: Schema): string {
  const said = alternatives(root, schema, undefined).find(({ description }) => typeof description === 'string');
  return (said?.description as string | undefined) ?? '';
}

function typeOf(root: Schema, schema: Schema): string {
  const types = alternatives(root, schema, undefined).flatMap((one) => {
    if ('const' in one) return [JSON.stringify(one.const)];
    if (Array.isArray(one.enum)) return one.enum.map((value) => JSON.stringify(value));
    if (Array.isArray(one.type)) return one.type.map(String);
    return typeof one.type === 'string' ? [one.type] : [];
  });
  return [...new Set(types)].join(' | ');
}

function isObject(value: unknown): value is Schema {
  return value !== null && typeof value === 'object' && !Array.isArray(value);
}
